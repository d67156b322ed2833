//! What the demo shows and how: commands as they are typed, their output as it comes, and the time it came at.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use lictor_test::{Cli, Done};

/// Where the story is told.
pub(crate) struct Stage<'a> {
    cli: &'a Cli,
    stopped: &'a AtomicBool,
}

impl<'a> Stage<'a> {
    /// A stage for commands of one home.
    pub(crate) fn new(cli: &'a Cli, stopped: &'a AtomicBool) -> Self {
        Self { cli, stopped }
    }

    /// The next scene.
    pub(crate) fn scene(&self, title: &str) -> Result<()> {
        check(self.stopped)?;
        println!("\n\x1b[1m{title}\x1b[0m");
        Ok(())
    }

    /// Runs a command and shows each line of its output with the time since its start.
    pub(crate) fn live(&self, arguments: &[&str]) -> Result<()> {
        check(self.stopped)?;
        typed(arguments);
        let mut command = self.cli.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let started_at = Instant::now();
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)) {
            println!("  {:>5.2} s | {}", started_at.elapsed().as_secs_f64(), line?);
        }
        let status = child.wait()?;
        println!("           exit status {}", status.code().unwrap_or(-1));
        ensure!(
            status.success(),
            "`lictor {}` ended with {status}",
            arguments.join(" ")
        );
        Ok(())
    }

    /// Runs a command, shows its output, and checks its exit status.
    pub(crate) fn expect(&self, status: i32, arguments: &[&str]) -> Result<Done> {
        check(self.stopped)?;
        typed(arguments);
        let done = self.cli.run(arguments)?;
        for line in done.text().lines().chain(done.stderr.lines()) {
            println!("    {line}");
        }
        println!("           exit status {}", done.code()?);
        ensure!(
            done.code()? == status,
            "`lictor {}`: expected exit status {status}",
            arguments.join(" ")
        );
        Ok(done)
    }
}

/// Ends the story early when somebody asked for it.
pub(crate) fn check(stopped: &AtomicBool) -> Result<()> {
    if stopped.load(Ordering::Relaxed) {
        bail!("stopped");
    }
    Ok(())
}

fn typed(arguments: &[&str]) {
    let words = arguments.iter().map(|a| {
        if a.contains([' ', ';', '$']) {
            format!("'{a}'")
        } else {
            (*a).to_owned()
        }
    });
    println!("  $ lictor {}", words.collect::<Vec<_>>().join(" "));
}
