//! What becomes a job's descriptors 0, 1 and 2, and the agent's ends of it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use tokio::sync::watch;

use super::input;
use super::pipe::PipeReader;
use super::terminal::{self, TerminalKeys};
use crate::backend::StartError;
use crate::plan::LaunchSpec;
use crate::running::Output;
use crate::terminal::Stdio;

/// Both sides of it.
pub(super) struct Streams {
    /// The job's: one that is all three, or each.
    theirs: Vec<OwnedFd>,
    pub(super) ours: Output,
}

impl Streams {
    /// `ended` turns true when no process of the job is left.
    pub(super) async fn open(
        stdio: Stdio,
        spec: &LaunchSpec,
        ended: &watch::Sender<bool>,
    ) -> Result<Self, StartError> {
        let size = match stdio {
            Stdio::Terminal(size) => size,
            Stdio::Streams(stdin) => {
                let stdin = input::open(stdin, spec)
                    .await
                    .map_err(StartError::failed("open standard input"))?;
                let pipe = || PipeReader::new(ended.subscribe()).map_err(StartError::failed("make a pipe"));
                let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
                return Ok(Self {
                    theirs: vec![stdin, out, err],
                    ours: Output {
                        stdout,
                        stderr: Some(stderr),
                        terminal: None,
                    },
                });
            }
        };
        let open = || {
            let (outer, inner) = terminal::open(size, spec)?;
            let keys = TerminalKeys::new(outer.try_clone()?, ended.subscribe())?;
            let stdout = PipeReader::of_terminal(outer, inner.try_clone()?, ended.subscribe())?;
            Ok(Self {
                theirs: vec![inner],
                ours: Output {
                    stdout,
                    stderr: None,
                    terminal: Some(keys),
                },
            })
        };
        open().map_err(StartError::failed("make a terminal"))
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.ours.terminal.is_some()
    }

    /// The job's end of its terminal.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        let inner = self.theirs.first().filter(|_| self.has_terminal());
        inner.map(|fd| fd.as_fd())
    }

    /// What the job gets, in order.
    pub(super) fn inherit(&self) -> Vec<BorrowedFd<'_>> {
        self.theirs.iter().cycle().take(3).map(|fd| fd.as_fd()).collect()
    }
}
