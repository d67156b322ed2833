//! `spawn-base PROGRAM ARGUMENTS...`: for every line on standard input starts the program once, waits for its end,
//! and prints how long both took, in nanoseconds.
//!
//! The floor of the benchmark. It is a process of its own because a small process starts others faster than one
//! that holds a benchmark; `std` starts them by `posix_spawn`.

// A measuring device: it starts processes and prints numbers.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (program, arguments) = words
        .split_first()
        .context("usage: spawn-base PROGRAM ARGUMENTS...")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        let started_at = Instant::now();
        let status = command.spawn()?.wait()?;
        let took = started_at.elapsed();
        ensure!(status.success(), "{program} ended with {status}");
        writeln!(stdout, "{}", took.as_nanos())?;
        stdout.flush()?;
    }
    Ok(())
}
