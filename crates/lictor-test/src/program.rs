//! A running process that is watched: its lines of standard output, its end, and its end on drop.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::poll;

/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// A program that was started and is ended when this is dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    ended: Option<ExitStatus>,
}

impl Program {
    /// Starts a program in a process group of its own, with nothing on its standard input.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let name = format!("{command:?}");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (line_tx, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line_tx.send(line).is_err() {
                    break;
                }
            }
        });
        let mut pipe = child.stderr.take().context("no stderr")?;
        let stderr = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&stderr);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                let piece = String::from_utf8_lossy(&buffer[..n]);
                text.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&piece);
            }
        });
        Ok(Self {
            name,
            child,
            lines,
            stderr,
            ended: None,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads lines of its standard output until one gives an answer.
    ///
    /// # Errors
    /// When it ends, or `patience` is over, without such a line; the message carries its standard error.
    pub fn line<T>(&mut self, what: &str, patience: Duration, pick: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(answer) = pick(&line) {
                        return Ok(answer);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "{}: waited {patience:?} in vain for {what}\n{}",
                        self.name,
                        self.stderr()
                    );
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait(GRACE)?;
                    bail!(
                        "{}: ended with {status} before {what}\n{}",
                        self.name,
                        self.stderr()
                    );
                }
            }
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.ended.is_none() && !matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When `patience` is over first.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let child = &mut self.child;
        let status = poll(&format!("the end of {}", self.name), patience, || {
            child.try_wait().ok().flatten()
        })?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Sends it a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        if let (None, Some(pid)) = (self.ended, Pid::from_child(&self.child).into()) {
            let _: Result<(), _> = kill_process(pid, signal);
        }
    }

    /// Kills it with SIGKILL, it alone, and waits until it is gone.
    ///
    /// # Errors
    /// When it is not gone within the grace.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.wait(GRACE)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it has not ended within the grace.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(GRACE)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_running() && self.terminate().is_err() {
            let _: Result<(), _> = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _: Result<_, _> = self.wait(GRACE);
        }
        if thread::panicking() {
            eprintln!("--- stderr of {} ---\n{}", self.name, self.stderr());
        }
    }
}
