//! The one spawn function.
//!
//! # Invariants
//! - Nothing is inherited but what [`Launch`] names: the environment, descriptors from 0 up, ids, limits.
//! - When [`spawn`] answers with an error, nothing of the program has run.

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};

use super::keeper::Keeper;
use super::table::{
    Arena, ExecBy, FileCheck, FileIdentity, Full, MAX_FDS, MAX_FILES, MAX_GROUPS, Record, STARTED, Step,
    Table,
};
use super::users::User;
use super::zygote::{Lease, MOST_IDLE, Zygote};
use crate::backend::StartError;

/// Everything about one start.
pub(crate) struct Launch<'a> {
    pub(crate) exec_by: ExecBy,
    /// The program, then the interpreters of its `#!` chain.
    pub(crate) files: Vec<(CString, FileIdentity)>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    /// Where the keeper stands meanwhile, so that the job is found by its directory alone.
    pub(crate) job_dir: Option<CString>,
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
    pub(super) keeper: Keeper,
    pub(crate) main: u32,
}

/// Starts a program below a keeper that has nobody else.
pub(crate) async fn spawn(zygote: &Arc<Zygote>, launch: &Launch<'_>) -> Result<Spawned, StartError> {
    let unreachable = || StartError::failed("reach the zygote");
    let lease = zygote.lease().await.map_err(unreachable())?;
    if fill(&lease, launch).is_err() {
        lease.release();
        let source = io::Error::from(io::ErrorKind::ArgumentListTooLong);
        return Err(StartError::failed("hand over argv and environment")(source));
    }
    let mut fds = Vec::with_capacity(MAX_FDS);
    fds.extend(launch.cgroup);
    fds.extend(launch.namespaces);
    fds.extend(&launch.inherit);
    let result = hand_over(zygote, &lease, &fds, launch).await;
    lease.release();
    result
}

/// Finds a keeper that takes the table. One that dies before that has started nothing, so the next may.
async fn hand_over(
    zygote: &Zygote,
    lease: &Lease,
    fds: &[BorrowedFd<'_>],
    launch: &Launch<'_>,
) -> Result<Spawned, StartError> {
    let unreachable = || StartError::failed("reach the zygote");
    // SAFETY: `fill` has put a table there, and the lease keeps everybody else but the keeper away; what the keeper
    // writes is atomic.
    let taken = || unsafe { (*lease.memory().cast::<Table>()).taken.load(Ordering::Acquire) };
    for _ in 0..=MOST_IDLE {
        let mut keeper = zygote.keeper().await.map_err(unreachable())?;
        if keeper.send(lease.index(), fds).is_err() {
            continue;
        }
        match keeper.next().await {
            Ok(Some(record)) if record.kind == STARTED => {
                let main = u32::try_from(record.a).unwrap_or(0);
                return Ok(Spawned { keeper, main });
            }
            Ok(Some(record)) => {
                zygote.give_back(keeper);
                return Err(failure_of(record, launch));
            }
            Ok(None) | Err(_) if !taken() => {}
            Ok(None) => return Err(StartError::failed("start")(io::ErrorKind::BrokenPipe.into())),
            Err(e) => return Err(StartError::failed("start")(e)),
        }
    }
    Err(unreachable()(io::ErrorKind::NotConnected.into()))
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

fn fill(lease: &Lease, launch: &Launch<'_>) -> Result<(), Full> {
    let slot = lease.memory();
    // SAFETY: the lease makes this caller the only user of the slot until it is sent.
    let mut arena = unsafe { Arena::after_table(slot) };
    if launch.files.len() > MAX_FILES || launch.inherit.len() + 2 > MAX_FDS || launch.files.is_empty() {
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
        job_dir: match &launch.job_dir {
            Some(dir) => arena.text(dir)?,
            None => std::ptr::null(),
        },
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
        taken: AtomicBool::new(false),
        failed_step: AtomicI64::new(0),
        failed_errno: AtomicI32::new(0),
        main: AtomicI32::new(0),
    };
    // SAFETY: the slot starts on a page, so it is aligned, and is larger than a table; see above for who uses it.
    unsafe { slot.cast::<Table>().write(table) };
    Ok(())
}
