//! What a job reads from and writes to: streams of its own, or a terminal.
//!
//! ```text
//!   Stdio::Terminal(size) --exec--> Running: take_stdout  what the terminal shows, both streams as one
//!                                            take_terminal  keys and size
//! ```
//!
//! # Invariants
//! - A terminal is one job's: its main process is the session's leader, and nobody else is given either end of it. The
//!   user of a `host` job can open it by its name, as on any system.
//! - Nobody waits for a terminal whose job has ended: its output ends, and writing to it fails.

use std::io;

use crate::imp;
use crate::running::StdinSource;

/// What a job has as its descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio {
    /// Input of its own, and two pipes.
    Streams(StdinSource),
    /// A terminal, which is also its session's. Whoever at it ignores SIGTERM, as interactive shells do, gets SIGHUP as well
    /// when the job is to end. It starts as the kernel makes them (lines, echo, signals by keys),
    /// for text in UTF-8. What kind a program may expect is for the job's own `TERM` to say.
    Terminal(TerminalSize),
}

impl From<StdinSource> for Stdio {
    fn from(stdin: StdinSource) -> Self {
        Self::Streams(stdin)
    }
}

/// The size of a terminal, in characters; zero for unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// The keys and the size of a job's terminal. When it and the job's output are both dropped while the job runs, the
/// terminal hangs up: the job gets SIGHUP, and every use of the terminal fails.
#[derive(Debug)]
pub struct Terminal(imp::TerminalKeys);

impl Terminal {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn new(keys: imp::TerminalKeys) -> Self {
        Self(keys)
    }

    /// Types some of `bytes` and says how many; waits while the job reads none of those before. A terminal that reads
    /// lines holds 4095 bytes of one, and beeps at what is beyond. Ctrl-D (4) at the start of a line is its end of file.
    ///
    /// # Errors
    /// `BrokenPipe` when the job has ended.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).await
    }

    /// Gives it another size, and tells the programs in its foreground (SIGWINCH).
    ///
    /// # Errors
    /// `BrokenPipe` when the job has ended.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        self.0.resize(size)
    }
}
