//! Output pipes: 1 MiB where the system allows it, read without a thread.

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

/// The read end of one stream.
#[derive(Debug)]
pub(crate) struct PipeReader {
    fd: AsyncFd<OwnedFd>,
    /// Turns true when no process of the job is left. Whoever else may hold the write end (a descriptor can be sent
    /// to a stranger) is not waited for.
    ended: watch::Receiver<bool>,
    /// Once it has: how much of what the job wrote is still to be read. What a stranger writes after that is not
    /// the job's, and a fast one would go on for ever.
    left: Option<usize>,
}

impl PipeReader {
    /// A reader, and the write end for the job.
    pub(crate) fn new(ended: watch::Receiver<bool>) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
        // The default of 64 KiB works too, only slower; the limit on a user's pipe memory may ask for that.
        let _ = rustix::pipe::fcntl_setpipe_size(&read, CAPACITY);
        let fd = ready::watch(read)?;
        let left = None;
        Ok((Self { fd, ended, left }, write))
    }

    /// Appends at most `limit` bytes; `0` is the end.
    pub(crate) async fn read(&mut self, into: &mut BytesMut, limit: usize) -> io::Result<usize> {
        // A pipe that is never empty must not keep the task from looking at time limits.
        tokio::task::coop::consume_budget().await;
        loop {
            let ended = *self.ended.borrow_and_update();
            if ended && self.left.is_none() {
                let waiting = rustix::io::ioctl_fionread(self.fd.get_ref())?;
                self.left = Some(usize::try_from(waiting).unwrap_or(usize::MAX));
            }
            let limit = self.left.map_or(limit, |left| limit.min(left));
            if limit == 0 {
                return Ok(0);
            }
            into.reserve(limit);
            let spare = into.spare_capacity_mut();
            let most = limit.min(spare.len());
            let got = match rustix::io::read(self.fd.get_ref(), &mut spare[..most]) {
                Ok((filled, _)) => filled.len(),
                Err(Errno::AGAIN) if ended => return Ok(0),
                Err(Errno::AGAIN) => {
                    tokio::select! {
                        ready = self.fd.readable() => ready?.clear_ready(),
                        // A closed channel means that nobody watches the job any more; the pipe's own end counts.
                        changed = self.ended.changed() => if changed.is_err() {
                            self.fd.readable().await?.clear_ready();
                        },
                    }
                    continue;
                }
                Err(Errno::INTR) => continue,
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
