//! The first process of a container, as its makers leave it to the agent.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use super::docker::InDocker;
use crate::handle::ProcessId;
use crate::linux::copy;
use crate::linux::keeper::Keeper;
use crate::linux::kernel::Kernel;
use crate::linux::oci::INIT;
use crate::linux::process;
use crate::linux::ready;

/// Most of what a maker says that is repeated.
const MOST_WORDS: usize = 2048;

/// A first process that waits.
#[derive(Debug)]
pub(super) struct First {
    pub(super) id: ProcessId,
    pub(super) fd: OwnedFd,
    /// What it waits at: it ends when nobody holds this any more.
    pub(super) _hold: OwnedFd,
    /// Has nobody but it and what its maker needs beside it.
    pub(super) keeper: Option<Keeper>,
    pub(super) by: By,
}

/// Who has made it.
#[derive(Debug)]
pub(super) enum By {
    Runtime,
    Podman {
        /// Whose users some of its files belong to, when the agent is not root.
        users: OwnedFd,
    },
    Docker(InDocker),
}

impl By {
    /// The users of a job, where they are not those of the container.
    pub(super) fn users(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Docker(made) => Some(made.users.as_fd()),
            Self::Runtime | Self::Podman { .. } => None,
        }
    }
}

/// Waits until a first process tells through this that it runs.
pub(super) async fn heard(told: OwnedFd) -> io::Result<()> {
    rustix::fs::fcntl_setfl(&told, OFlags::NONBLOCK)?;
    let told = ready::watch(told)?;
    loop {
        match rustix::io::read(told.get_ref(), &mut [0]) {
            Ok(1) => return Ok(()),
            Ok(_) => return Err(io::Error::other("the first process did not start")),
            Err(Errno::AGAIN) => told.readable().await?.clear_ready(),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The user namespace of a process.
pub(super) fn users_of(process: ProcessId) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/{}/ns/user", process.pid);
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Our program as a file that nobody can change.
pub(super) fn program() -> io::Result<OwnedFd> {
    let program = INIT.ok_or(io::ErrorKind::Unsupported)?;
    let mut file = copy::memory("lictor-init")?;
    file.write_all(program)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// The process below a keeper that runs our program; others may still be on their way out.
pub(super) fn below(keeper: &Keeper, program: &OwnedFd) -> io::Result<Option<(ProcessId, OwnedFd)>> {
    let ours = rustix::fs::fstat(program)?;
    let runs_it = |process: &ProcessId| {
        let program = std::fs::metadata(format!("/proc/{}/exe", process.pid));
        program.is_ok_and(|p| (p.dev(), p.ino()) == (ours.st_dev, ours.st_ino))
    };
    let found = process::descendants(keeper.id.pid).into_iter().find(runs_it);
    found.map(|id| Ok((id, process::open(id)?))).transpose()
}

/// Ends whoever else a maker has left: a monitor that would tidy up at the end, and what holds users for its next
/// container. Nobody needs them any more, and they would outlive the agent.
pub(super) fn leave_alone(keeper: &Keeper, first: ProcessId) -> io::Result<()> {
    let others = process::descendants(keeper.id.pid).into_iter();
    process::signal_all(others.filter(|other| *other != first).collect(), Signal::KILL)
}

/// Ends whatever a maker has begun that is of no use.
pub(super) async fn give_up(kernel: &Kernel, mut keeper: Keeper) {
    if let Err(error) = keeper.end_all(kernel.zygote.kill_bound()).await {
        tracing::error!(%error, "a container that could not be made is left");
    }
    kernel.zygote.give_back(keeper);
}

/// What is in a pipe by now of what a maker says.
pub(super) fn said(words: &OwnedFd) -> String {
    let mut said = [0; MOST_WORDS];
    let _ = rustix::fs::fcntl_setfl(words, OFlags::NONBLOCK);
    let length = rustix::io::read(words, &mut said).unwrap_or(0);
    legible(&said[..length])
}

/// What a maker says, for people.
pub(super) fn legible(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.trim().chars().filter(|c| !c.is_control()).collect()
}
