//! Terminals: a pair of descriptors made outside every sandbox, of which the job gets the inner one.
//!
//! The inner end is opened through the outer one, by no path, so that a job may have it whatever `/dev/pts` it sees. It has
//! a name in the host's `/dev/pts` all the same: its user alone may open that, and in a sandbox nobody sees it but, behind
//! Landlock, the job itself.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::ready;
use crate::plan::LaunchSpec;
use crate::terminal::TerminalSize;

/// A new terminal's outer and inner end; the outer one does not block.
pub(super) fn open(size: TerminalSize, spec: &LaunchSpec) -> io::Result<(OwnedFd, OwnedFd)> {
    let (outer, inner) = pair()?;
    rustix::termios::tcsetwinsize(&outer, in_characters(size))?;
    let mut modes = rustix::termios::tcgetattr(&inner)?;
    // Else erasing a character takes away one byte of it.
    modes.input_modes |= InputModes::IUTF8;
    rustix::termios::tcsetattr(&inner, OptionalActions::Now, &modes)?;
    // Before the owner, and the group, too: those who may write to every terminal have no business at this one.
    rustix::fs::fchmod(&inner, Mode::RUSR | Mode::WUSR)?;
    if spec.changes_user {
        // Programs open their terminal again, as `/dev/stderr` or by its name.
        let (user, group) = (spec.user.uid, spec.user.gid);
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::fchown(&inner, Some(user), Some(group))?;
    }
    rustix::fs::fcntl_setfl(&outer, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((outer, inner))
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let outer = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&outer)?;
    let inner = rustix::pty::ioctl_tiocgptpeer(&outer, flags)?;
    Ok((outer, inner))
}

/// Whether there are any here, or why not; found out by making one.
pub(super) fn works() -> io::Result<()> {
    pair().map(drop)
}

fn in_characters(size: TerminalSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// The outer end, for writing.
#[derive(Debug)]
pub(crate) struct TerminalKeys {
    fd: AsyncFd<OwnedFd>,
    /// Turns true when no process of the job is left.
    ended: watch::Receiver<bool>,
}

impl TerminalKeys {
    pub(super) fn new(outer: OwnedFd, ended: watch::Receiver<bool>) -> io::Result<Self> {
        let fd = ready::watch_for(outer, Interest::WRITABLE)?;
        Ok(Self { fd, ended })
    }

    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut ended = self.ended.clone();
        loop {
            if *ended.borrow() {
                return Err(gone());
            }
            match rustix::io::write(self.fd.get_ref(), bytes) {
                Ok(written) => return Ok(written),
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::IO) => return Err(gone()),
                Err(e) => return Err(e.into()),
            }
            tokio::select! {
                ready = self.fd.writable() => ready?.clear_ready(),
                // Nobody watches a job whose channel is closed: it is being ended, and nobody reads keys any more.
                _ = ended.wait_for(|ended| *ended) => return Err(gone()),
            }
        }
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        if *self.ended.borrow() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(rustix::termios::tcsetwinsize(
            self.fd.get_ref(),
            in_characters(size),
        )?)
    }
}
