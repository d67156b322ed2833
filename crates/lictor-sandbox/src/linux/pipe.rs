//! Output: pipes, 1 MiB where the system allows it, or a terminal; read without a thread.

use std::io;
use std::os::fd::OwnedFd;

use bytes::BytesMut;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::ready;

/// Large enough that a writer at full speed seldom waits for the reader to be scheduled.
const CAPACITY: usize = 1024 * 1024;
/// More than the kernel keeps of what was written to a terminal and not read yet.
const TERMINAL_KEEPS: usize = 64 * 1024;

/// The read end of one stream.
#[derive(Debug)]
pub(crate) struct PipeReader {
    fd: Later,
    /// Turns true when no process of the job is left. Whoever else may hold the write end (a descriptor can be sent
    /// to a stranger) is not waited for.
    ended: watch::Receiver<bool>,
    /// Once it has: how much of what the job wrote is still to be read. What a stranger writes after that is not
    /// the job's, and a fast one would go on for ever.
    left: Option<usize>,
    /// A terminal's inner end: while it is held, a job that has closed its own for the moment does not end the stream.
    inner: Option<OwnedFd>,
}

impl PipeReader {
    /// A reader, and the write end for the job.
    pub(crate) fn new(ended: watch::Receiver<bool>) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
        let reader = Self {
            fd: Later::Unread(read),
            ended,
            left: None,
            inner: None,
        };
        Ok((reader, write))
    }

    /// A reader of what a terminal shows.
    pub(super) fn of_terminal(
        outer: OwnedFd,
        inner: OwnedFd,
        ended: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        Ok(Self {
            fd: Later::Watched(ready::watch(outer)?),
            ended,
            left: None,
            inner: Some(inner),
        })
    }

    /// What is to be read yet now that the job has ended.
    fn count_left(&mut self) -> io::Result<usize> {
        if self.inner.take().is_some() {
            // It cannot be counted; reading says when there is no more.
            return Ok(TERMINAL_KEEPS);
        }
        let waiting = rustix::io::ioctl_fionread(self.fd.get_ref()?)?;
        Ok(usize::try_from(waiting).unwrap_or(usize::MAX))
    }

    /// Appends at most `limit` bytes; `0` is the end.
    pub(crate) async fn read(&mut self, into: &mut BytesMut, limit: usize) -> io::Result<usize> {
        // A pipe that is never empty must not keep the task from looking at time limits.
        tokio::task::coop::consume_budget().await;
        loop {
            let ended = *self.ended.borrow_and_update();
            if ended && self.left.is_none() {
                self.left = Some(self.count_left()?);
            }
            let limit = self.left.map_or(limit, |left| limit.min(left));
            if limit == 0 {
                return Ok(0);
            }
            into.reserve(limit);
            let spare = into.spare_capacity_mut();
            let most = limit.min(spare.len());
            let got = match rustix::io::read(self.fd.get_ref()?, &mut spare[..most]) {
                Ok((filled, _)) => filled.len(),
                Err(Errno::AGAIN) if ended => return Ok(0),
                Err(Errno::AGAIN) => {
                    let fd = self.fd.watch()?;
                    tokio::select! {
                        ready = fd.readable() => ready?.clear_ready(),
                        // A closed channel means that nobody watches the job any more; the pipe's own end counts.
                        changed = self.ended.changed() => if changed.is_err() {
                            self.inner = None;
                            fd.readable().await?.clear_ready();
                        },
                    }
                    continue;
                }
                Err(Errno::INTR) => continue,
                // Of a terminal whose inner end nobody has any more; a pipe's reader never gets this.
                Err(Errno::IO) => return Ok(0),
                Err(e) => return Err(e.into()),
            };
            let length = into.len() + got;
            // SAFETY: the kernel has filled the `got` bytes after the old length.
            unsafe { into.set_len(length) };
            self.left = self.left.map(|left| left - got);
            return Ok(got);
        }
    }
}

/// What is to be read, and is waited for when there is nothing yet: by then the job runs, whose start is not held up by
/// what its reader needs.
#[derive(Debug)]
enum Later {
    Unread(OwnedFd),
    Watched(AsyncFd<OwnedFd>),
    /// The runtime has not taken it.
    Broken,
}

impl Later {
    fn get_ref(&self) -> io::Result<&OwnedFd> {
        match self {
            Self::Unread(fd) => Ok(fd),
            Self::Watched(fd) => Ok(fd.get_ref()),
            Self::Broken => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn watch(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        *self = match std::mem::replace(self, Self::Broken) {
            Self::Unread(fd) => {
                // The default of 64 KiB works too, only slower; the limit on a user's pipe memory may ask for that.
                let _ = rustix::pipe::fcntl_setpipe_size(&fd, CAPACITY);
                Self::Watched(ready::watch(fd)?)
            }
            other => other,
        };
        match self {
            Self::Watched(fd) => Ok(fd),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
