//! A started job: its output, its time limit, its end.
//!
//! ```text
//!             time limit or stop             grace over
//!   running ----------------------> TERM ------------------> KILL
//!      | main process exits          | tree is empty           | tree is empty
//!      '------> KILL what is left ---+-------------------------+---> Ended
//! ```
//!
//! # Invariants
//! - [`Running::wait`] drives all of this; whoever holds it polls it. Reading output needs nothing of it.
//! - When `wait` returns, no process of the job is left, and the readers end after what is still in the pipes.

use std::fs::File;
use std::io;

use lictor_proto::Timestamp;
use lictor_proto::doc::{Exit, LimitHit, Usage};
use lictor_proto::egress::Event;

use crate::handle::Handle;
use crate::imp;
use crate::secret::SecretFile;
use crate::terminal::Terminal;

/// Where standard input comes from.
#[derive(Debug)]
pub enum StdinSource {
    /// `/dev/null`.
    Null,
    /// This file, read from its start: a file never waits for a writer, so nothing can deadlock.
    File(File),
    /// This secret.
    Secret(SecretFile),
}

/// Why a job is being ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A signed cancel, or a revocation.
    Canceled,
    /// The agent is going down.
    Shutdown,
}

/// What made the job end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its main process ended by itself.
    Exited,
    /// Its wall time was up.
    TimedOut,
    /// The kept sandbox that it works in held more than it may.
    OutOfRoom,
    /// Somebody stopped it.
    Stopped(StopReason),
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How the main process ended; `None` when that could not be seen.
    pub exit: Option<Exit>,
    /// What made it end.
    pub cause: Cause,
    /// Used by the whole tree.
    pub usage: Usage,
    /// Limits that made a difference.
    pub limits_hit: Vec<LimitHit>,
    /// Processes that the main process left behind and that were ended.
    pub leftovers: u32,
    /// Whether SIGKILL was needed after the grace.
    pub killed: bool,
    /// When the program was started.
    pub started_at: Timestamp,
    /// When the last process was gone.
    pub finished_at: Timestamp,
}

/// A started job.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    started_at: Timestamp,
    stdout: Option<OutputReader>,
    stderr: Option<OutputReader>,
    terminal: Option<Terminal>,
    egress: Option<EgressEvents>,
    inner: imp::Supervisor,
}

/// The agent's ends of what a job writes to, and of its terminal.
pub(crate) struct Output {
    pub(crate) stdout: imp::PipeReader,
    pub(crate) stderr: Option<imp::PipeReader>,
    pub(crate) terminal: Option<imp::TerminalKeys>,
}

impl Running {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn new(handle: Handle, started_at: Timestamp, output: Output, inner: imp::Supervisor) -> Self {
        Self {
            handle,
            started_at,
            stdout: Some(OutputReader(output.stdout)),
            stderr: output.stderr.map(OutputReader),
            terminal: output.terminal.map(Terminal::new),
            egress: None,
            inner,
        }
    }

    /// What to write down so that it can be found again.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// When the program was started.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Standard output, or all that the job's terminal shows; `None` the second time. A job that prints to a terminal whose
    /// reader was dropped waits, until [`Terminal`] is dropped, too.
    pub fn take_stdout(&mut self) -> Option<OutputReader> {
        self.stdout.take()
    }

    /// Standard error; `None` the second time, and of a job with a terminal.
    pub fn take_stderr(&mut self) -> Option<OutputReader> {
        self.stderr.take()
    }

    /// Keys and size of the job's terminal; `None` without one, and the second time.
    pub fn take_terminal(&mut self) -> Option<Terminal> {
        self.terminal.take()
    }

    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn with_egress(self, egress: Option<EgressEvents>) -> Self {
        Self { egress, ..self }
    }

    /// What its way out is asked for; `None` without one, and the second time. Whoever takes it reads it to its end:
    /// nothing goes out whose record nobody takes.
    pub fn take_egress(&mut self) -> Option<EgressEvents> {
        self.egress.take()
    }

    /// A switch that ends the job; it can be cloned and kept anywhere.
    #[must_use]
    pub fn stop_switch(&self) -> StopSwitch {
        StopSwitch(self.inner.stop_sender())
    }

    /// Waits for the end: enforces the time limit, ends the tree, collects exit and usage.
    pub async fn wait(self) -> Ended {
        // What nobody has taken by now nobody will: its way out is closed.
        drop(self.egress);
        self.inner.wait(self.started_at).await
    }
}

/// Ends a job from outside: TERM to the tree, the grace, then KILL.
#[derive(Debug, Clone)]
pub struct StopSwitch(tokio::sync::watch::Sender<Option<StopReason>>);

impl StopSwitch {
    /// Asks for the end; the first reason given counts. Nothing happens when the job has ended already.
    pub fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|r| {
            let first = r.is_none();
            if first {
                *r = Some(reason);
            }
            first
        });
    }
}

/// What the egress proxy says about one job, in order. It ends after the sandbox was destroyed, or when the proxy ends.
#[derive(Debug)]
pub struct EgressEvents {
    events: tokio::sync::mpsc::Receiver<Event>,
    way_out: imp::WayOut,
    /// Records that were handed out and are not said to be taken.
    in_hand: u32,
}

/// Closes a job's way out, and is kept apart from what is heard of it.
#[derive(Debug)]
pub struct EgressClose(imp::WayOut);

impl EgressClose {
    /// Ends its connections, and returns when the last about them has been said: then the events come to their end.
    /// Bounded: a proxy that does not answer is ended. `destroy` does the same.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

impl EgressEvents {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn new(events: tokio::sync::mpsc::Receiver<Event>, way_out: imp::WayOut) -> Self {
        Self {
            events,
            way_out,
            in_hand: 0,
        }
    }

    /// What closes it, for when the job has ended: whoever wants to hear the last of it before the sandbox is gone.
    #[must_use]
    pub fn to_close(&self) -> EgressClose {
        EgressClose(self.way_out.clone())
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn way_out(&self) -> imp::WayOut {
        self.way_out.clone()
    }

    /// Waits for some, at most `limit`, and appends them; `0` means the end. Whoever asks for more has written down
    /// what came before: only then the job may have more to say.
    pub async fn next(&mut self, into: &mut Vec<Event>, limit: usize) -> usize {
        if self.in_hand > 0 {
            self.way_out.taken(std::mem::take(&mut self.in_hand)).await;
        }
        let before = into.len();
        let heard = self.events.recv_many(into, limit).await;
        let records = into.iter().skip(before);
        let records = records.filter(|e| matches!(e, Event::Decision(_) | Event::Ended(_)));
        self.in_hand = u32::try_from(records.count()).unwrap_or(u32::MAX);
        heard
    }
}

/// The read end of one output stream.
#[derive(Debug)]
pub struct OutputReader(imp::PipeReader);

impl OutputReader {
    /// Appends what has come, at most `limit` bytes; `0` means the end. Waits when nothing has come yet.
    ///
    /// # Errors
    /// Only the system's, on a broken descriptor.
    pub async fn read(&mut self, into: &mut bytes::BytesMut, limit: usize) -> io::Result<usize> {
        self.0.read(into, limit).await
    }
}
