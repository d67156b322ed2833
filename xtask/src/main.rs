//! The project's own commands: `cargo xtask setup | test | demo | bench`.
//!
//! Everything a newcomer or the CI does goes through here, so that there is one description of it and it is code.
//! This program knows no workspace crate: it has to build in seconds, before anything else does.

// It is a build tool: it talks to a terminal and starts cargo, apt and the programs under test.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

mod fuzz;
mod guest;
mod programs;
mod setup;
mod shell;
mod steps;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup            install what the commands below need (Debian packages, cargo-nextest)
  demo [--once]    start a hub and an agent here and show what Lictor is about; --once ends by itself
  test             set-up, format, clippy, features, docs, fuzz, unit, component and system tests
  guest            tests of limits under version 2 of cgroups, in a virtual machine (part of test)
  fuzz             a short run of every fuzz target (part of test)
  bench [--quick] [--only latency|bulk|crowd|memory|stalled|egress|abuse|steps|starts]
                   measure against floors and peers (release build)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["setup"] => setup::for_tests(),
        ["test"] => test::run_all(),
        ["demo"] => programs::demo(&[]),
        ["demo", "--once"] => programs::demo(&["--once"]),
        ["bench", rest @ ..] => programs::bench(rest),
        ["fuzz"] => fuzz::run_all(),
        ["guest"] => setup::for_tests().and_then(|()| guest::run_all()),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
