//! What the demo shows and how: commands as they are typed, their output as it comes, and the time it came at.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use lictor_test::{Cli, Done};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Whether somebody wants the story to end before its end.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    /// What takes long and runs at the moment.
    running: Mutex<Option<OwnedFd>>,
}

impl Stop {
    /// Somebody does.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        if let Some(program) = &*self.running() {
            // One that has just ended needs no signal.
            let _: Result<(), _> = pidfd_send_signal(program, Signal::TERM);
        }
    }

    /// Ends the story early when somebody asked for it.
    pub(crate) fn check(&self) -> Result<()> {
        if self.asked.load(Ordering::SeqCst) {
            bail!("stopped");
        }
        Ok(())
    }

    /// Runs a program to its end, which it is asked for as soon as somebody asks for the story's.
    pub(crate) fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        let mut child = command.spawn()?;
        let program = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        *self.running() = Some(program);
        if self.check().is_err() {
            self.ask();
        }
        let status = child.wait()?;
        *self.running() = None;
        self.check()?;
        Ok(status)
    }

    fn running(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the story is told.
pub(crate) struct Stage<'a> {
    cli: &'a Cli,
    stop: &'a Stop,
}

impl<'a> Stage<'a> {
    /// A stage for commands of one home.
    pub(crate) fn new(cli: &'a Cli, stop: &'a Stop) -> Self {
        Self { cli, stop }
    }

    /// Whether the story goes on.
    pub(crate) fn stop(&self) -> &'a Stop {
        self.stop
    }

    /// The next scene: its title, and what there is to see.
    pub(crate) fn scene(&self, title: &str, about: &str) -> Result<()> {
        self.stop.check()?;
        heading(title);
        println!("  {about}\n");
        Ok(())
    }

    /// Runs a command and shows each line of its output with the time since its start.
    pub(crate) fn live(&self, status: i32, arguments: &[&str]) -> Result<()> {
        self.stop.check()?;
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
        self.stop.check()?;
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
