//! Measures a program's start and end from a small process, `spawn-base`.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use lictor_test::sibling;

/// A running `spawn-base`.
pub(crate) struct Spawner {
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Spawner {
    /// For a command: its program, arguments and environment.
    pub(crate) fn new(measured: &Command) -> Result<Self> {
        let name = format!("{measured:?}");
        let mut command = Command::new(sibling("spawn-base")?);
        command.arg(measured.get_program()).args(measured.get_args());
        for (key, value) in measured.get_envs() {
            command.env(key, value.unwrap_or(OsStr::new("")));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self {
            name,
            child,
            stdin,
            stdout,
        })
    }

    /// Runs it once.
    pub(crate) fn once(&mut self) -> Result<Duration> {
        self.stdin.write_all(b"\n")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let nanos = line
            .trim()
            .parse()
            .with_context(|| format!("{} failed", self.name))?;
        Ok(Duration::from_nanos(nanos))
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // It waits for a line that never comes.
        if self.child.kill().is_ok() {
            let _: Result<_, _> = self.child.wait();
        }
    }
}
