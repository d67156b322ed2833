//! The one spawn function.
//!
//! # Invariants
//! - Nothing is inherited but what [`Launch`] names: the environment, descriptors from 0 up, ids, limits.
//! - When [`spawn`] answers with an error, nothing of the program has run, or it was killed as it began.
//! - A start takes [`Zygote::bound`] at most. What cannot even be killed then is left behind with its slot.

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::keeper::{Keeper, Kind};
use super::process;
use super::supervisor::{Timer, expiry};
use super::table::{
    Arena, Covering, ExecBy, FileCheck, FileIdentity, Full, HostCgroups, MAX_FDS, MAX_FILES, Over, Record,
    STARTED, Step, Table, Tightened,
};
use super::users::User;
use super::zygote::{Lease, MOST_IDLE, Zygote};
use crate::backend::StartError;
use crate::plan::UMASK;

/// Between two looks at what is left of a start that hangs.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Everything about one start.
pub(crate) struct Launch<'a> {
    pub(crate) exec_by: ExecBy,
    /// The program, then the interpreters of its `#!` chain.
    pub(crate) files: Vec<LaunchFile<'a>>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    /// What the keeper is called meanwhile, so that the job is found by its directory alone.
    pub(crate) keeper_name: Option<CString>,
    pub(crate) cwd_before_ids: bool,
    /// Whose ids to take; `None` when it runs as the agent does.
    pub(crate) user: Option<&'a User>,
    /// Whether those are ids of the namespaces: whoever enters stays who the agent is until then.
    pub(crate) ids_inside: bool,
    pub(crate) confine: bool,
    pub(crate) filter: Option<&'a [libc::sock_filter]>,
    /// Resource, soft limit, hard limit.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) umask: u32,
    pub(crate) ignore_sigchld: bool,
    pub(crate) die_with_keeper: bool,
    /// Whether whoever it leaves is ended when there is no agent any more.
    pub(crate) ends_alone: bool,
    /// Whether the first of `inherit` is a terminal and becomes the session's.
    pub(crate) takes_terminal: bool,
    pub(crate) cgroups: HostCgroups,
    /// A mount that is nowhere, and where it is put in mounts of its own.
    pub(crate) mount: Option<(BorrowedFd<'a>, CString)>,
    /// Becomes 0, 1, 2, ...
    pub(crate) inherit: Vec<BorrowedFd<'a>>,
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    pub(crate) namespaces: Option<BorrowedFd<'a>>,
    /// The mounts that it sees.
    pub(crate) mounts: Option<BorrowedFd<'a>>,
    /// The user namespace that it enters, in place of that of `namespaces`.
    pub(crate) users: Option<BorrowedFd<'a>>,
    /// Mounts of the namespaces and what must not be done with them, in place of starting a program.
    pub(crate) tightened: Vec<(CString, u64)>,
    /// What is mounted over places in them after that, outermost first.
    pub(crate) covers: Vec<LaunchCover>,
    /// Landlock rules that the program stays behind.
    pub(crate) ruleset: Option<BorrowedFd<'a>>,
    /// Cgroups of version 1 that the program is in from before it runs.
    pub(crate) gates: Vec<BorrowedFd<'a>>,
    /// Where to listen in the namespaces, in place of starting a program; the socket is sent through the first of
    /// `inherit`.
    pub(crate) listen: Option<u16>,
}

impl Launch<'_> {
    fn kind(&self) -> Kind {
        if self.confine && self.namespaces.is_none() {
            Kind::Confined
        } else {
            Kind::Plain
        }
    }

    /// A tool of the agent's own: nothing is inherited, nothing compared, and it ends with its keeper.
    pub(crate) fn of_a_helper() -> Self {
        Self {
            exec_by: ExecBy::Trusted,
            files: Vec::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: c"/".to_owned(),
            keeper_name: None,
            cwd_before_ids: false,
            user: None,
            ids_inside: false,
            confine: false,
            filter: None,
            rlimits: Vec::new(),
            umask: UMASK,
            ignore_sigchld: false,
            die_with_keeper: true,
            ends_alone: false,
            takes_terminal: false,
            cgroups: HostCgroups::AsTheyAre,
            mount: None,
            inherit: Vec::new(),
            cgroup: None,
            namespaces: None,
            mounts: None,
            users: None,
            tightened: Vec::new(),
            covers: Vec::new(),
            ruleset: None,
            gates: Vec::new(),
            listen: None,
        }
    }
}

/// A file that must still be what was judged.
pub(crate) struct LaunchFile<'a> {
    pub(crate) path: CString,
    pub(crate) identity: FileIdentity,
    pub(crate) held_at: Option<u32>,
    /// What is used in its place.
    pub(crate) copy: Option<BorrowedFd<'a>>,
}

/// A place in a sandbox, and what takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaunchCover {
    pub(crate) at: CString,
    pub(crate) over: Over,
    /// Device and inode of what must be there, where it is to stay.
    pub(crate) place: (u64, u64),
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
    fds.extend(launch.mounts);
    fds.extend(launch.users);
    fds.extend(launch.ruleset);
    fds.extend(launch.mount.as_ref().map(|(mount, _)| *mount));
    fds.extend(&launch.gates);
    fds.extend(&launch.inherit);
    fds.extend(launch.files.iter().filter_map(|f| f.copy));
    match hand_over(zygote, &lease, &fds, launch).await {
        Ok(spawned) => {
            lease.release();
            Ok(spawned)
        }
        Err(Failure { error, slot }) => {
            match slot {
                Slot::Free => lease.release(),
                Slot::MayBeRead => lease.abandon(),
            }
            Err(error)
        }
    }
}

/// Whether anybody can still look at what was handed over.
enum Slot {
    Free,
    MayBeRead,
}

struct Failure {
    error: StartError,
    slot: Slot,
}

impl Failure {
    fn free(error: StartError) -> Self {
        let slot = Slot::Free;
        Self { error, slot }
    }

    fn may_be_read(error: io::Error) -> Self {
        let slot = Slot::MayBeRead;
        let error = StartError::failed("start")(error);
        Self { error, slot }
    }
}

/// Finds a keeper that takes the table. One that dies before that has started nothing, so the next may.
async fn hand_over(
    zygote: &Zygote,
    lease: &Lease,
    fds: &[BorrowedFd<'_>],
    launch: &Launch<'_>,
) -> Result<Spawned, Failure> {
    let unreachable = |e| Failure::free(StartError::failed("reach the zygote")(e));
    // SAFETY: `fill` has put a table there, and the lease keeps everybody else but the keeper away; both change it
    // by atomics alone.
    let taken = unsafe { &(*lease.memory().cast::<Table>()).taken };
    for _ in 0..=MOST_IDLE {
        let idle = zygote.keeper(launch.kind()).await.map_err(unreachable)?;
        if idle.send(lease.index(), fds).is_err() {
            continue;
        }
        // From here on it starts the program; what this side needs for waiting is made beside that. Without it nobody
        // would hear: the keeper is let go, and kills what it has started.
        let mut keeper = Keeper::take(idle).map_err(Failure::may_be_read)?;
        let bound = Timer::after(zygote.bound);
        let said = tokio::select! {
            biased;
            said = keeper.next() => said,
            () = expiry(&bound) => return Err(held_up(zygote, keeper, taken).await),
        };
        match said {
            Ok(Some(record)) if record.kind == STARTED => {
                let main = u32::try_from(record.a).unwrap_or(0);
                return Ok(Spawned { keeper, main });
            }
            Ok(Some(record)) => {
                zygote.give_back(keeper);
                return Err(Failure::free(failure_of(record, launch)));
            }
            Ok(None) if !taken.load(Ordering::Acquire) => {}
            // Whom it has made may live without it, and read on.
            Ok(None) => return Err(Failure::may_be_read(io::ErrorKind::BrokenPipe.into())),
            Err(e) => {
                taken.store(true, Ordering::Release);
                return Err(Failure::may_be_read(e));
            }
        }
    }
    Err(unreachable(io::ErrorKind::NotConnected.into()))
}

/// A start that takes too long is taken back, or killed when it is under way.
async fn held_up(zygote: &Zygote, mut keeper: Keeper, taken: &AtomicBool) -> Failure {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    if !taken.swap(true, Ordering::AcqRel) {
        // The keeper itself is held; when it goes on, it finds the table withdrawn.
        return Failure::may_be_read(late());
    }
    let bound = Timer::after(zygote.kill_bound());
    loop {
        for process in process::descendants(keeper.id.pid) {
            if let Err(error) = process::signal(process, Signal::KILL) {
                tracing::warn!(%error, "cannot end a start that hangs");
            }
        }
        let look_again = Timer::after(LOOK_AGAIN);
        tokio::select! {
            biased;
            said = keeper.next() => return match said {
                // Whatever it says, it has done with the table; a program that did start has been killed.
                Ok(Some(_)) => {
                    zygote.give_back(keeper);
                    Failure::free(StartError::failed("start")(late()))
                }
                Ok(None) | Err(_) => Failure::may_be_read(late()),
            },
            () = expiry(&look_again) => {}
            () = expiry(&bound) => return Failure::may_be_read(late()),
        }
    }
}

fn failure_of(record: Record, launch: &Launch<'_>) -> StartError {
    if record.b == Step::Changed as i64 {
        let path = launch
            .files
            .iter()
            .find(|f| !f.path.is_empty())
            .map(|f| f.path.to_string_lossy().into_owned());
        return StartError::ProgramChanged {
            path: path.unwrap_or_default(),
        };
    }
    StartError::Failed {
        step: Step::describe(record.b),
        source: io::Error::from_raw_os_error(record.a),
    }
}

/// Puts a start into its slot, as a table.
fn fill(lease: &Lease, launch: &Launch<'_>) -> Result<(), Full> {
    let slot = lease.memory();
    // SAFETY: the lease makes this caller the only user of the slot until it is sent.
    let mut arena = unsafe { Arena::after_table(slot) };
    let text = |arena: &mut Arena, text: &Option<CString>| match text {
        Some(text) => arena.text(text),
        None => Ok(std::ptr::null()),
    };
    let groups = launch.user.map_or(&[][..], |u| &u.groups);
    let tightened = tightened(&mut arena, launch)?;
    let covers = covers(&mut arena, launch)?;
    let table = Table {
        inherit: launch.inherit.len() as u32,
        has_cgroup: launch.cgroup.is_some(),
        has_namespaces: launch.namespaces.is_some(),
        has_mounts: launch.mounts.is_some(),
        has_users: launch.users.is_some(),
        tightened: arena.copy(&tightened)?,
        tightened_count: tightened.len(),
        covers: arena.copy(&covers)?,
        cover_count: covers.len(),
        has_ruleset: launch.ruleset.is_some(),
        mount_at: match &launch.mount {
            Some((_, at)) => arena.text(at)?,
            None => std::ptr::null(),
        },
        gates: launch.gates.len() as u32,
        listen_port: launch.listen.unwrap_or(0),
        set_ids: launch.user.is_some(),
        ids_inside: launch.ids_inside,
        uid: launch.user.map_or(0, |u| u.uid),
        gid: launch.user.map_or(0, |u| u.gid),
        groups: padded(groups, 0)?,
        group_count: groups.len(),
        ignore_sigchld: launch.ignore_sigchld,
        die_with_keeper: launch.die_with_keeper,
        ends_alone: launch.ends_alone,
        takes_terminal: launch.takes_terminal,
        cgroups: launch.cgroups,
        confine: launch.confine,
        cwd: arena.text(&launch.cwd)?,
        keeper_name: text(&mut arena, &launch.keeper_name)?,
        cwd_before_ids: launch.cwd_before_ids,
        rlimits: padded(&launch.rlimits, (0, 0, 0))?,
        rlimit_count: launch.rlimits.len(),
        umask: launch.umask,
        filter: match launch.filter {
            Some(program) => arena.copy(program)?,
            None => std::ptr::null(),
        },
        filter_len: launch.filter.map_or(0, |f| f.len() as u16),
        exec_by: launch.exec_by,
        files: files(&mut arena, launch)?,
        file_count: match launch.exec_by {
            ExecBy::Trusted => 0,
            ExecBy::Descriptor | ExecBy::Path => launch.files.len(),
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

/// What may not be done with mounts, as the table has it.
fn tightened(arena: &mut Arena, launch: &Launch<'_>) -> Result<Vec<Tightened>, Full> {
    let each = launch.tightened.iter().map(|(path, attributes)| {
        Ok(Tightened {
            path: arena.text(path)?,
            attributes: *attributes,
        })
    });
    each.collect()
}

/// What is mounted over places, as the table has it.
fn covers(arena: &mut Arena, launch: &Launch<'_>) -> Result<Vec<Covering>, Full> {
    let each = launch.covers.iter().map(|cover| {
        Ok(Covering {
            path: arena.text(&cover.at)?,
            over: cover.over,
            dev: cover.place.0,
            ino: cover.place.1,
        })
    });
    each.collect()
}

/// The files to compare, as the table has them.
fn files(arena: &mut Arena, launch: &Launch<'_>) -> Result<[FileCheck; MAX_FILES], Full> {
    let descriptors = launch.gates.len() + launch.inherit.len() + launch.files.len() + 6;
    let starts = launch.listen.is_none() && launch.tightened.is_empty();
    if (launch.files.is_empty() && starts) || descriptors > MAX_FDS {
        return Err(Full);
    }
    let mut copies = 0..;
    let mut checks = Vec::with_capacity(launch.files.len());
    for file in &launch.files {
        let copy = file.copy.and_then(|_| copies.next());
        checks.push(FileCheck {
            path: arena.text(&file.path)?,
            identity: file.identity,
            copy: copy.unwrap_or(-1),
            held_at: file.held_at.map_or(-1, |n| n as i32),
        });
    }
    padded(&checks, FileCheck::NONE)
}

/// A list in the fixed room that the table has for it.
fn padded<T: Copy, const N: usize>(list: &[T], filler: T) -> Result<[T; N], Full> {
    let mut room = [filler; N];
    room.get_mut(..list.len()).ok_or(Full)?.copy_from_slice(list);
    Ok(room)
}
