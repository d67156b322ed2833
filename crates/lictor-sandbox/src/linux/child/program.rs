//! From a new process to the program: namespaces, session, descriptors, ids, limits, comparison, filter, `execveat`.
//!
//! The process shares its keeper's memory and stops it meanwhile. It writes its failure into the table and ends.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use super::clone::{self, Parent};
use super::judged::open_judged;
use super::{errno, exit, set_handler};
use crate::linux::table::{ExecBy, HostCgroups, MAX_FDS, Step, Table};

/// Descriptors are moved here first, so that none of them is in the way of 0, 1, 2, ...
const HIGH: c_int = 64;

pub(super) const ALL_NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

impl Start<'_> {
    /// Those of its namespaces that it enters: where it is given users of its own, those of the namespaces are not the
    /// job's, and may be those that it has already.
    pub(super) fn entered(&self) -> c_int {
        match self.users {
            Some(_) => ALL_NAMESPACES & !libc::CLONE_NEWUSER,
            None => ALL_NAMESPACES,
        }
    }
}

/// What a new process needs; it lies on the keeper's stack.
pub(super) struct Start<'a> {
    pub(super) table: &'a Table,
    pub(super) namespaces: Option<c_int>,
    /// Mounts to enter.
    pub(super) mounts: Option<c_int>,
    /// Whether its process is made in their pid namespace; the others it enters by itself.
    pub(super) born_inside: bool,
    /// Whose users to join, in place of those of the namespaces.
    pub(super) users: Option<c_int>,
    pub(super) ruleset: Option<c_int>,
    /// A mount that is put somewhere in mounts of its own.
    pub(super) mount: Option<c_int>,
    /// Cgroups of version 1 to join.
    pub(super) gates: &'a [c_int],
    /// Becomes 0, 1, 2, ...
    pub(super) inherit: &'a [c_int],
    /// Files that were copied when they were judged. Their numbers are higher than any that `inherit` becomes.
    pub(super) copies: &'a [c_int],
    /// For the program's process, when it is made by [`enter`].
    pub(super) stack: *mut u8,
}

pub(super) fn fail(table: &Table, step: Step) -> ! {
    table.failed_errno.store(errno(), Ordering::Release);
    table.failed_step.store(step as i64, Ordering::Release);
    exit(127)
}

/// Enters namespaces and makes the program's process in them, as a child of the keeper, which has not the right to make
/// it there by itself; only a process born inside is in the pid namespace.
///
/// # Safety
/// As [`become_program`].
pub(super) unsafe extern "C" fn enter(argument: *mut c_void) -> ! {
    // SAFETY: the keeper passes a `Start` that lives until this process has ended.
    let start = unsafe { &*argument.cast::<Start<'_>>() };
    let table = start.table;
    // SAFETY: system calls on this process alone; the stack is unused.
    unsafe {
        // All of it is inherited by the program's process.
        go_inside(start, start.entered());
        let main = clone::start(start.stack, Parent::MakersParent, None, become_program, argument);
        if main < 0 {
            *libc::__errno_location() = -main as c_int;
            fail(table, Step::ForkProgram);
        }
        table.main.store(main as i32, Ordering::Release);
    }
    exit(0)
}

/// Cgroups, keyring and user of the job, then the namespaces.
///
/// # Safety
/// As [`become_program`].
unsafe fn go_inside(start: &Start<'_>, namespaces: c_int) {
    let table = start.table;
    // SAFETY: system calls on this process alone.
    unsafe {
        // First of all: whatever this process does counts.
        if join(start.gates) < 0 {
            fail(table, Step::Cgroups);
        }
        if table.confine && take_own_keyring() < 0 {
            fail(table, Step::Confine);
        }
        // A box that belongs to the unprivileged user is entered as that user. One that root has made cannot be; there
        // it becomes its user inside, before it looks at anything.
        if !table.ids_inside && become_user(table) < 0 {
            fail(table, Step::Ids);
        }
        if libc::setns(start.namespaces.unwrap_or(-1), namespaces) < 0 {
            fail(table, Step::Namespaces);
        }
    }
}

/// Becomes the program.
///
/// # Safety
/// In a process of its own, single-threaded, with `argument` pointing to a `Start` whose table was filled by the
/// agent, which waits for `STARTED` or `FAILED` before it touches the slot again.
pub(super) unsafe extern "C" fn become_program(argument: *mut c_void) -> ! {
    // SAFETY: as the caller vouches.
    let start = unsafe { &*argument.cast::<Start<'_>>() };
    let table = start.table;
    // SAFETY: as the caller vouches.
    unsafe {
        // First of all: whatever this process does counts.
        if start.born_inside {
            go_inside(start, start.entered() & !libc::CLONE_NEWPID);
        } else if start.namespaces.is_none() && join(start.gates) < 0 {
            fail(table, Step::Cgroups);
        }
        clean_slate(table);
        if let Some(users) = start.users
            && libc::setns(users, libc::CLONE_NEWUSER) < 0
        {
            fail(table, Step::Namespaces);
        }
        if let Some(mount) = start.mount
            && put_mount(mount, table.mount_at) < 0
        {
            fail(table, Step::Mounts);
        }
        // Out of the way of 0, 1, 2, ...; closed by the program's start like everything else.
        let ruleset = start
            .ruleset
            .map(|fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, HIGH));
        if let Some(mounts) = start.mounts
            && libc::setns(mounts, libc::CLONE_NEWNS) < 0
        {
            fail(table, Step::Namespaces);
        }
        if move_descriptors(start.inherit) < 0 {
            fail(table, Step::Descriptors);
        }
        if table.takes_terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
            fail(table, Step::Terminal);
        }
        if see_cgroups(table.cgroups) < 0 {
            fail(table, Step::Cgroups);
        }
        if table.cwd_before_ids && libc::chdir(table.cwd) < 0 {
            fail(table, Step::Directory);
        }
        give_up_rights(start, ruleset);
        limit(table);
        execute(table, start.copies)
    }
}

/// Becomes the job's user, in its directory, and gives up whatever a job must not have.
///
/// # Safety
/// As [`become_program`].
unsafe fn give_up_rights(start: &Start<'_>, ruleset: Option<c_int>) {
    let table = start.table;
    // SAFETY: system calls on this process alone.
    unsafe {
        if table.confine {
            if start.namespaces.is_none() && take_own_keyring() < 0 {
                fail(table, Step::Confine);
            }
            // Before the ids: afterwards there is no right to, and it would stay full. Elsewhere the keeper has done it
            // for all of its jobs; a user namespace fills it again.
            if start.namespaces.is_some() {
                drop_bounding_set();
            }
        }
        if (start.namespaces.is_none() || table.ids_inside) && become_user(table) < 0 {
            fail(table, Step::Ids);
        }
        if table.die_with_keeper {
            // After the ids: a change of user takes this back.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        if !table.cwd_before_ids && libc::chdir(table.cwd) < 0 {
            fail(table, Step::Directory);
        }
        if table.confine && confine() < 0 {
            fail(table, Step::Confine);
        }
        if let Some(ruleset) = ruleset
            && libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) < 0
        {
            fail(table, Step::Landlock);
        }
    }
}

/// Makes the host's cgroups read-only for this process and whoever it starts, or hides them. Where none are mounted, there
/// is nothing to do.
///
/// # Safety
/// As [`become_program`].
unsafe fn see_cgroups(how: HostCgroups) -> c_int {
    if how == HostCgroups::AsTheyAre {
        return 0;
    }
    // `struct mount_attr`: set, clear, propagation, user namespace.
    let read_only = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0_u64];
    // SAFETY: system calls on this process's own mounts, with constants that outlive them.
    unsafe {
        if own_mounts() < 0 {
            return -1;
        }
        let at = c"/sys/fs/cgroup".as_ptr();
        let done = match how {
            HostCgroups::Hidden => {
                let (kind, flags) = (
                    c"tmpfs".as_ptr(),
                    libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV,
                );
                c_long::from(libc::mount(kind, at, kind, flags, c"size=4k".as_ptr().cast()))
            }
            HostCgroups::ReadOnly | HostCgroups::AsTheyAre => libc::syscall(
                libc::SYS_mount_setattr,
                libc::AT_FDCWD,
                at,
                libc::AT_RECURSIVE,
                read_only.as_ptr(),
                size_of_val(&read_only),
            ),
        };
        match done {
            0 => 0,
            _ if matches!(errno(), libc::ENOENT | libc::EINVAL) => 0,
            _ => -1,
        }
    }
}

/// Mounts of this process's own, of which nobody else hears.
///
/// # Safety
/// As [`become_program`].
unsafe fn own_mounts() -> c_int {
    // SAFETY: system calls on this process's own mounts, with constants that outlive them.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) < 0 {
            return -1;
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = ptr::null::<libc::c_char>();
        libc::mount(none, c"/".as_ptr(), none, private, ptr::null())
    }
}

/// Puts a mount that is nowhere at a path, in mounts of this process's own.
///
/// # Safety
/// As [`become_program`]; `at` is a string.
unsafe fn put_mount(mount: c_int, at: *const c_char) -> c_long {
    const MOVE_MOUNT_F_EMPTY_PATH: c_int = 4;
    // SAFETY: system calls on this process's own mounts, with strings that outlive them.
    unsafe {
        if own_mounts() < 0 {
            return -1;
        }
        libc::syscall(
            libc::SYS_move_mount,
            mount,
            c"".as_ptr(),
            libc::AT_FDCWD,
            at,
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    }
}

/// Enters cgroups as their opened `tasks` allow whoever opened them. This process has one thread, so that is all of it.
///
/// # Safety
/// As [`become_program`].
unsafe fn join(gates: &[c_int]) -> isize {
    for gate in gates {
        // SAFETY: one byte of a literal, to a descriptor that the agent has passed.
        let written = unsafe { libc::write(*gate, c"0".as_ptr().cast(), 1) };
        if written < 0 {
            return written;
        }
    }
    0
}

/// Session, umask, signals.
///
/// # Safety
/// As [`become_program`].
unsafe fn clean_slate(table: &Table) {
    // SAFETY: the zygote has reset every signal's handler and mask; handlers are not shared with the keeper.
    unsafe {
        if table.ignore_sigchld {
            // Ignored SIGCHLD survives execve and reaps children by itself: the sandbox's first process is one
            // that never waits.
            set_handler(libc::SIGCHLD, libc::SIG_IGN);
        }
        libc::setsid();
        libc::umask(table.umask);
    }
}

/// # Safety
/// As [`become_program`].
unsafe fn limit(table: &Table) {
    for (resource, soft, hard) in &table.rlimits[..table.rlimit_count] {
        let value = [*soft, *hard];
        let null = ptr::null_mut::<u8>();
        // SAFETY: `value` has the layout of rlimit64; nothing is written back.
        if unsafe { libc::syscall(libc::SYS_prlimit64, 0, *resource, &raw const value, null) } < 0 {
            fail(table, Step::Limits);
        }
    }
}

/// Groups, group, user: all three kinds of id at once.
///
/// # Safety
/// In a single-threaded process only: raw calls change one thread.
pub(super) unsafe fn become_user(table: &Table) -> c_long {
    if !table.set_ids {
        return 0;
    }
    let (uid, gid) = (table.uid, table.gid);
    // SAFETY: `groups` holds `group_count` ids. Raw calls: glibc's wrappers would signal threads that are not here.
    unsafe {
        let groups = libc::syscall(libc::SYS_setgroups, table.group_count, table.groups.as_ptr());
        if groups < 0 {
            return groups;
        }
        let group = libc::syscall(libc::SYS_setresgid, gid, gid, gid);
        if group < 0 {
            return group;
        }
        libc::syscall(libc::SYS_setresuid, uid, uid, uid)
    }
}

/// Makes `inherit` 0, 1, 2, ... and everything else close-on-exec.
///
/// # Safety
/// As [`become_program`].
unsafe fn move_descriptors(inherit: &[c_int]) -> c_long {
    let mut high = [0; MAX_FDS];
    // SAFETY: system calls on this process's own descriptors.
    unsafe {
        for (i, fd) in inherit.iter().enumerate() {
            high[i] = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, HIGH);
        }
        for (i, _) in inherit.iter().enumerate() {
            if libc::dup2(high[i], i as c_int) < 0 {
                return -1;
            }
        }
        let first = inherit.len() as u32;
        let flag = libc::CLOSE_RANGE_CLOEXEC;
        libc::syscall(libc::SYS_close_range, first, c_int::MAX as u32, flag)
    }
}

/// Empties the set of what programs could give back; an agent that is not root has none that counts.
///
/// # Safety
/// As [`become_program`].
pub(super) unsafe fn drop_bounding_set() {
    for capability in 0..64 {
        // SAFETY: prctl on this process alone.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            break; // the first number past the last capability
        }
    }
}

/// Gives up every privilege, for good.
///
/// # Safety
/// As [`become_program`].
unsafe fn confine() -> c_long {
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: prctl and capset on this process alone, with arguments of the kernel's layout.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            return -1;
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let header = [VERSION_3, 0];
        let nothing = [0_u32; 6];
        libc::syscall(libc::SYS_capset, &raw const header, &raw const nothing)
    }
}

/// Keyrings are in no namespace: without one of its own the job would share the agent's session keyring. Before the ids:
/// there may be 200 of a user, and all jobs may be the same one. A kernel without keyrings has nothing to share.
///
/// # Safety
/// As [`become_program`].
unsafe fn take_own_keyring() -> c_long {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: keyctl on this process alone; no name stands for a new keyring.
    let taken = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<u8>()) };
    if taken < 0 && errno() == libc::ENOSYS {
        return 0;
    }
    taken
}

/// # Safety
/// As [`become_program`].
unsafe fn execute(table: &Table, copies: &[c_int]) -> ! {
    // SAFETY: every pointer in the table was filled by the agent.
    unsafe {
        let program = open_judged(table, copies);
        if !table.filter.is_null() {
            let filter = libc::sock_fprog {
                len: table.filter_len,
                filter: table.filter.cast_mut(),
            };
            let mode = libc::SECCOMP_MODE_FILTER;
            if libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter, 0, 0) < 0 {
                fail(table, Step::Seccomp);
            }
        }
        let (empty, flag) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        match table.exec_by {
            ExecBy::Descriptor => {
                libc::syscall(libc::SYS_execveat, program, empty, table.argv, table.envp, flag);
            }
            ExecBy::Path | ExecBy::Trusted => {
                libc::syscall(libc::SYS_execve, table.files[0].path, table.argv, table.envp);
            }
        }
        fail(table, Step::Exec)
    }
}
