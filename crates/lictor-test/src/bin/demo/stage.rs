//! What the demo shows and how: commands as they are typed, their output as it comes, and the time it came at.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
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

    /// The next scene: its title, and what there is to see.
    pub(crate) fn scene(&self, title: &str, about: &str) -> Result<()> {
        check(self.stopped)?;
        heading(title);
        println!("  {about}\n");
        Ok(())
    }

    /// Runs a command and shows each line of its output with the time since its start.
    pub(crate) fn live(&self, status: i32, arguments: &[&str]) -> Result<()> {
        check(self.stopped)?;
        typed(arguments);
        let (output, input) = std::io::pipe()?;
        let mut command = self.cli.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input);
        let started_at = Instant::now();
        let mut child = command.spawn()?;
        // It holds the writing ends.
        drop(command);
        for line in BufReader::new(output).lines() {
            println!("    {:>5.2} s | {}", started_at.elapsed().as_secs_f64(), line?);
        }
        ended(arguments, status, child.wait()?.code().unwrap_or(-1))
    }

    /// Runs a command, shows its output, and checks its exit status.
    pub(crate) fn expect(&self, status: i32, arguments: &[&str]) -> Result<Done> {
        self.only(status, arguments, |_| true)
    }

    /// The same, showing only those lines that matter here.
    pub(crate) fn only(
        &self,
        status: i32,
        arguments: &[&str],
        matters: impl Fn(&str) -> bool,
    ) -> Result<Done> {
        check(self.stopped)?;
        typed(arguments);
        let done = self.cli.run(arguments)?;
        for line in done
            .text()
            .lines()
            .chain(done.stderr.lines())
            .filter(|l| matters(l))
        {
            println!("    {line}");
        }
        ended(arguments, status, done.code()?)?;
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

/// A line that stands out, on a terminal.
pub(crate) fn heading(title: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m{title}\x1b[0m");
    } else {
        println!("\n{title}");
    }
}

/// What a person would type to do this.
pub(crate) fn typed(arguments: &[&str]) {
    let words = arguments.iter().map(|a| {
        if a.contains([' ', ';', '$']) {
            format!("'{a}'")
        } else {
            (*a).to_owned()
        }
    });
    println!("  $ lictor {}", words.collect::<Vec<_>>().join(" "));
}

fn ended(arguments: &[&str], wanted: i32, status: i32) -> Result<()> {
    if status != 0 {
        println!("    (exit status {status})");
    }
    println!();
    ensure!(
        status == wanted,
        "`lictor {}` ended with status {status}; {wanted} was expected",
        arguments.join(" ")
    );
    Ok(())
}
