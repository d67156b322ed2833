//! The agent's side of a keeper: what it says, and lending it out for one job after another.
//!
//! ```text
//!   made by the zygote --> idle --lend--> busy --free again--> idle
//!                                           '--dropped--> it ends by itself when its job has
//! ```
//!
//! # Invariants
//! - A keeper goes back only when it has said that nobody is left below it, or that nothing was started.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use lictor_proto::Digest;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;
use tokio::io::unix::AsyncFd;

use super::supervisor::{Timer, expiry};
use super::table::{EMPTY, FAILED, MAIN_ENDED, MAX_FDS, Record};
use super::{process, ready};
use crate::handle::ProcessId;

/// Between two looks at what is left of a sandbox, at first and at most.
const SHORTEST: Duration = Duration::from_micros(500);
const LONGEST: Duration = Duration::from_millis(50);

/// What the keeper of the job with this directory is called: all that a later agent process has to find it by when
/// the start was never written down. At most the 15 bytes that the kernel keeps of a name.
///
/// # Errors
/// When the directory that it lies in is not there.
pub(super) fn name_for(job_dir: &Path) -> io::Result<CString> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let (Some(above), Some(own)) = (job_dir.parent(), job_dir.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // However the agent was told its directory this time.
    let path = above.canonicalize()?.join(own);
    let digest = Digest::of(path.as_os_str().as_encoded_bytes());
    let mut name = b"lictor-".to_vec();
    name.extend(digest.0.iter().take(8).map(|b| LETTERS[usize::from(b % 32)]));
    Ok(CString::new(name)?)
}

/// A keeper that has no job.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) id: ProcessId,
    pub(super) socket: OwnedFd,
    pub(super) kind: Kind,
}

/// What a keeper can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What may have every right that the agent has.
    Plain,
    /// What gives up all rights: it has given up for good what programs could get back.
    Confined,
}

impl Idle {
    /// Hands over a filled slot and its descriptors.
    pub(super) fn send(&self, slot: usize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.socket, slot, fds)
    }
}

/// A keeper that has one, or is about to.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(super) id: ProcessId,
    socket: AsyncFd<OwnedFd>,
    kind: Kind,
    free: bool,
    gone: bool,
}

impl Keeper {
    /// Takes an idle one. The runtime that is told is the caller's.
    pub(super) fn take(idle: Idle) -> io::Result<Self> {
        Ok(Self {
            id: idle.id,
            socket: ready::watch(idle.socket)?,
            kind: idle.kind,
            free: false,
            gone: false,
        })
    }

    /// Back to idle; `None` when it still has a job.
    pub(super) fn into_idle(self) -> Option<Idle> {
        self.free.then(|| Idle {
            id: self.id,
            socket: self.socket.into_inner(),
            kind: self.kind,
        })
    }

    /// Its next record; `None` when it is gone. Safe to cancel: a record is taken whole or not at all.
    pub(super) async fn next(&mut self) -> io::Result<Option<Record>> {
        let record = next(&self.socket).await;
        match &record {
            Ok(Some(r)) => self.free = matches!((r.kind, r.b), (FAILED, _) | (MAIN_ENDED, 0) | (EMPTY, _)),
            Ok(None) | Err(_) => self.gone = true,
        }
        record
    }

    /// Whether nobody is left below it, or it is gone itself.
    pub(super) fn is_free(&self) -> bool {
        self.free || self.gone
    }

    /// Ends whatever is below it. Who dies may leave others behind, so all are looked for again and again.
    pub(super) async fn end_all(&mut self, bound: Duration) -> io::Result<()> {
        let bound = Timer::after(bound);
        let mut look_again = SHORTEST;
        while !self.is_free() {
            for process in process::descendants(self.id.pid) {
                if let Err(error) = process::signal(process, Signal::KILL) {
                    tracing::warn!(%error, "cannot end a part of a sandbox");
                }
            }
            let timer = Timer::after(look_again);
            tokio::select! {
                () = self.until_free() => {}
                () = expiry(&timer) => {}
                () = expiry(&bound) => return Err(io::Error::other("processes of the sandbox survive SIGKILL")),
            }
            look_again = (look_again * 2).min(LONGEST);
        }
        Ok(())
    }

    /// Waits until nobody is left below it, or it is gone itself.
    pub(super) async fn until_free(&mut self) {
        while !self.is_free() && matches!(self.next().await, Ok(Some(_))) {}
    }
}

pub(super) async fn next(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<Record>> {
    loop {
        let mut bytes = [0_u8; Record::SIZE];
        match rustix::net::recv(socket.get_ref(), &mut bytes, RecvFlags::DONTWAIT) {
            Ok((Record::SIZE, _)) => return Ok(Some(Record::from_bytes(&bytes))),
            Ok(_) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(rustix::io::Errno::AGAIN) => socket.readable().await?.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

pub(super) fn send(socket: &OwnedFd, slot: usize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let too_many = || io::Error::other("too many descriptors for one start");
    if fds.len() > MAX_FDS {
        return Err(too_many());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(too_many());
    }
    let slot = (slot as u32).to_ne_bytes();
    let parts = [io::IoSlice::new(&slot)];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
