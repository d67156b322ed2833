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
#[cfg(all(test, feature = "hub", feature = "agent"))]
mod examples;
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
        // Help and version, on standard output.
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            if asks_for_json() {
                out::Out::new(true).failure(&mistyped(&e));
            } else {
                let _ = e.print();
            }
            return exit::Status(exit::OWN_ERROR).into();
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

/// Whether the program that typed this reads JSON, as far as arguments that cannot be read show it.
fn asks_for_json() -> bool {
    let own = std::env::args_os().skip(1).take_while(|a| a != "--");
    own.into_iter().any(|a| a == "--json")
}

/// What is wrong with the arguments, in clap's words.
fn mistyped(e: &clap::Error) -> failure::Failure {
    let text = e.to_string();
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or_default();
    let what = failure::Failure::new(first.trim_start_matches("error: "));
    let failure = lines.fold(what, |failure, line| failure.why(line));
    failure.hint("`lictor help COMMAND` shows the arguments.")
}
