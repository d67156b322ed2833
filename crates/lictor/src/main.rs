//! The `lictor` binary: every command over client, hub and agent. The only crate that prints.
//!
//! ```text
//! args/      what can be typed                       session.rs   the home: config, keys, hub, pinned law
//! commands/  one file per command, does the work     out.rs       everything printed goes through here
//! exit.rs    what it exits with                      failure.rs   what happened, why, what to do
//! ```
//!
//! Commands of people run on one thread and load nothing that they do not need: a cold `lictor run` is one
//! process start and one HTTP request.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod escape;
mod exit;
mod failure;
mod out;
#[cfg(all(test, feature = "hub", feature = "agent"))]
mod reference;
mod secret;
mod session;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap prints help and version to standard output and mistakes to standard error.
            let _ = e.print();
            return if e.use_stderr() {
                exit::Status(exit::OWN_ERROR).into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let out = out::Out::new(cli.global.json);
    match commands::dispatch(cli, out) {
        Ok(status) => status.into(),
        Err(failure) => {
            out.failure(&failure);
            failure.status().into()
        }
    }
}
