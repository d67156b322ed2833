//! Downloading files for an agent: the process that asks a server, and how an agent starts it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::Duration;

use lictor_agent::config::Downloads;
use lictor_proto::download::{CERTIFICATES, Failed, Order, Why};
use lictor_proto::json;

use crate::exit::{self, Status};
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;

/// How an agent with these settings downloads.
pub(crate) fn downloader(settings: &Downloads) -> Result<lictor_warden::Downloader> {
    let certificates = settings.ca_file.as_ref().map(|file| {
        let text = std::fs::read_to_string(file).doing(format!("read {}", file.display()))?;
        match text.len() <= CERTIFICATES {
            true => Ok(text),
            false => Err(Failure::new(format!("{} is too long", file.display()))
                .why(format!("downloads.ca_file has at most {CERTIFICATES} bytes"))),
        }
    });
    Ok(lictor_warden::Downloader {
        arguments: vec![lictor_sandbox::DOWNLOAD.to_owned()],
        at_once: settings.at_once.get(),
        tries: settings.tries.get(),
        stall: Duration::from_secs(settings.stall_s.get().into()),
        turn: Duration::from_secs(settings.turn_s.get().into()),
        certificates: certificates.transpose()?,
    })
}

/// Downloads one file, as the process that an agent starts: its standard input leads to the egress proxy.
pub(crate) fn run(order: &str, out: Out) -> Result {
    let done = download(order);
    let Err(failed) = done else {
        return Ok(Status::OK);
    };
    // For the warden; people see what that makes of it.
    out.last_words(&json::to_vec(&failed).unwrap_or_default());
    Ok(Status(exit::OWN_ERROR))
}

fn download(order: &str) -> std::result::Result<(), Failed> {
    let ours =
        |e: &dyn std::fmt::Display| Failed::new(Why::Final, format!("it was not started by an agent: {e}"));
    let order: Order = json::from_slice(order.as_bytes()).map_err(|e| ours(&e))?;
    lictor_sandbox::hide_memory().map_err(|e| ours(&e))?;
    let connection = std::io::stdin().as_fd().try_clone_to_owned();
    let connection = connection.map_err(|e| ours(&e))?;
    // Without the buffer of lines that standard output has.
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    let mut output = File::from(output.map_err(|e| ours(&e))?);
    lictor_download::run(&order, connection, &mut output)
}
