//! The one spawn function.
//!
//! # Invariants
//! - Nothing is inherited but what [`Launch`] names: the environment, descriptors from 0 up, ids, limits.
//! - When [`spawn`] answers with an error, nothing of the program has run.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;

use super::ready;
use super::table::{
    Arena, ExecBy, FAILED, FileCheck, FileIdentity, Full, KEEPER, MAX_FDS, MAX_FILES, MAX_GROUPS, Record,
    STARTED, Step, Table,
};
use super::users::User;
use super::zygote::{Lease, Zygote};
use crate::backend::StartError;

/// Everything about one start.
pub(crate) struct Launch<'a> {
    pub(crate) exec_by: ExecBy,
    /// The program, then the interpreters of its `#!` chain.
    pub(crate) files: Vec<(CString, FileIdentity)>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    pub(crate) cwd_before_ids: bool,
    /// Whose ids to take; `None` when it runs as the agent does.
    pub(crate) user: Option<&'a User>,
    pub(crate) confine: bool,
    pub(crate) filter: Option<&'a [libc::sock_filter]>,
    pub(crate) rlimits: Vec<(u32, u64)>,
    pub(crate) ignore_sigchld: bool,
    pub(crate) die_with_keeper: bool,
    /// Becomes 0, 1, 2, ...
    pub(crate) inherit: Vec<BorrowedFd<'a>>,
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    pub(crate) namespaces: Option<BorrowedFd<'a>>,
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) keeper: u32,
    pub(crate) main: u32,
    pub(super) status: StatusPipe,
}

/// Starts a program under a keeper of its own.
pub(crate) async fn spawn(zygote: &Arc<Zygote>, launch: &Launch<'_>) -> Result<Spawned, StartError> {
    let lease = zygote
        .lease()
        .await
        .map_err(StartError::failed("reach the zygote"))?;
    if fill(&lease, launch).is_err() {
        lease.release();
        let source = io::Error::from(io::ErrorKind::ArgumentListTooLong);
        return Err(StartError::Failed {
            step: "hand over argv and environment",
            source,
        });
    }
    let (mut status, writer) = StatusPipe::new().map_err(StartError::failed("make a pipe"))?;
    let mut fds = vec![writer.as_fd()];
    fds.extend(launch.cgroup);
    fds.extend(launch.namespaces);
    fds.extend(&launch.inherit);
    if let Err(e) = lease.send(&fds) {
        lease.release();
        return Err(StartError::Failed {
            step: "reach the zygote",
            source: e,
        });
    }
    drop(writer);
    let result = first_records(&mut status, launch).await;
    lease.release();
    let (keeper, main) = match result {
        Ok(pids) => pids,
        Err((keeper, error)) => {
            if let Some(keeper) = keeper {
                reap(keeper);
            }
            return Err(error);
        }
    };
    Ok(Spawned { keeper, main, status })
}

/// Waits until the keeper has said how the start went; after that it reads its slot no more.
async fn first_records(
    status: &mut StatusPipe,
    launch: &Launch<'_>,
) -> Result<(u32, u32), (Option<u32>, StartError)> {
    let mut keeper = None;
    let mut failure = None;
    loop {
        let record = status
            .next()
            .await
            .map_err(|e| (keeper, StartError::failed("start")(e)))?;
        match record {
            Some(r) if r.kind == KEEPER => keeper = u32::try_from(r.a).ok(),
            Some(r) if r.kind == FAILED && failure.is_none() => failure = Some(failure_of(r, launch)),
            Some(r) if r.kind == STARTED && failure.is_none() => {
                let main = u32::try_from(r.a).unwrap_or(0);
                return keeper.map(|k| (k, main)).ok_or((None, broken_off()));
            }
            Some(_) => {}
            None => return Err((keeper, failure.unwrap_or_else(broken_off))),
        }
    }
}

fn broken_off() -> StartError {
    StartError::failed("start")(io::Error::from(io::ErrorKind::BrokenPipe))
}

fn failure_of(record: Record, launch: &Launch<'_>) -> StartError {
    if record.b == Step::Changed as i64 {
        let path = launch
            .files
            .first()
            .map(|(p, _)| p.to_string_lossy().into_owned());
        return StartError::ProgramChanged {
            path: path.unwrap_or_default(),
        };
    }
    StartError::Failed {
        step: Step::describe(record.b),
        source: io::Error::from_raw_os_error(record.a),
    }
}

/// Takes a keeper's status away. It has closed its pipe, so it is at its very end and this does not block.
pub(super) fn reap(keeper: u32) {
    if let Some(pid) = i32::try_from(keeper).ok().and_then(Pid::from_raw) {
        let wait_all = rustix::process::WaitOptions::from_bits_retain(libc::__WALL as u32);
        let _ = rustix::process::waitpid(Some(pid), wait_all);
    }
}

fn fill(lease: &Lease, launch: &Launch<'_>) -> Result<(), Full> {
    let slot = lease.memory();
    // SAFETY: the lease makes this caller the only user of the slot until it is sent.
    let mut arena = unsafe { Arena::after_table(slot) };
    if launch.files.len() > MAX_FILES || launch.inherit.len() + 3 > MAX_FDS || launch.files.is_empty() {
        return Err(Full);
    }
    let unused = FileIdentity {
        dev: 0,
        ino: 0,
        ctime: 0,
        ctime_nsec: 0,
        size: 0,
    };
    let mut files = [FileCheck {
        path: std::ptr::null(),
        identity: unused,
    }; MAX_FILES];
    for (slot, (path, identity)) in files.iter_mut().zip(&launch.files) {
        *slot = FileCheck {
            path: arena.text(path)?,
            identity: *identity,
        };
    }
    let mut rlimits = [(0, 0); 8];
    let rlimit_count = launch.rlimits.len();
    rlimits
        .get_mut(..rlimit_count)
        .ok_or(Full)?
        .copy_from_slice(&launch.rlimits);
    let mut groups = [0; MAX_GROUPS];
    let own = launch.user.map_or(&[][..], |u| &u.groups);
    groups.get_mut(..own.len()).ok_or(Full)?.copy_from_slice(own);
    let filter = match launch.filter {
        Some(program) => arena.copy(program)?,
        None => std::ptr::null(),
    };
    let table = Table {
        inherit: launch.inherit.len() as u32,
        has_cgroup: launch.cgroup.is_some(),
        has_namespaces: launch.namespaces.is_some(),
        set_ids: launch.user.is_some(),
        uid: launch.user.map_or(0, |u| u.uid),
        gid: launch.user.map_or(0, |u| u.gid),
        groups,
        group_count: own.len(),
        ignore_sigchld: launch.ignore_sigchld,
        die_with_keeper: launch.die_with_keeper,
        confine: launch.confine,
        cwd: arena.text(&launch.cwd)?,
        cwd_before_ids: launch.cwd_before_ids,
        rlimits,
        rlimit_count,
        filter,
        filter_len: launch.filter.map_or(0, |f| f.len() as u16),
        exec_by: launch.exec_by,
        files,
        file_count: if launch.exec_by == ExecBy::Trusted {
            0
        } else {
            launch.files.len()
        },
        argv: arena.texts(&launch.argv)?,
        envp: arena.texts(&launch.env)?,
    };
    // SAFETY: the slot starts on a page, so it is aligned, and is larger than a table; see above for who uses it.
    unsafe { slot.cast::<Table>().write(table) };
    Ok(())
}

/// The read end of a keeper's records.
#[derive(Debug)]
pub(super) struct StatusPipe(AsyncFd<OwnedFd>);

impl StatusPipe {
    fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
        Ok((Self(ready::watch(read)?), write))
    }

    /// The next record; `None` when the keeper is gone. Safe to cancel: a record is read whole or not at all.
    pub(super) async fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            let mut bytes = [0_u8; Record::SIZE];
            match rustix::io::read(self.0.get_ref(), &mut bytes) {
                Ok(Record::SIZE) => return Ok(Some(Record::from_bytes(&bytes))),
                Ok(_) => return Ok(None),
                Err(rustix::io::Errno::AGAIN) => self.0.readable().await?.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
