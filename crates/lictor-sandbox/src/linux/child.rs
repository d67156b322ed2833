//! What runs after a fork: zygote, keeper, program-to-be. Raw system calls only.
//!
//! ```text
//!   agent --fork once, at its start--> zygote: forgets the agent's memory, then waits for tables
//!   zygote --clone3(CLONE_PARENT)-----> keeper: a child of the agent, subreaper of one job
//!   keeper --clone3(CLONE_VFORK, CLONE_INTO_CGROUP)--> program: ids, descriptors, limits, filter, execveat
//! ```
//!
//! Why a zygote: a child made by vfork starts with the high-water mark of its parent's memory, so every job would
//! report the agent's size as its own peak; and a fork of a large agent is slow. The zygote has a few pages.
//! Why a keeper: orphans go to the nearest subreaper above them. With one per job, whatever a job double-forks
//! or puts into a session of its own stays below that job's keeper, and its use of CPU and memory is counted.
//!
//! # Invariants
//! - Nothing here allocates, locks, panics or returns to the code that forked: the process may be a copy of a
//!   multi-threaded one. `libc` functions used are plain system call wrappers.
//! - A keeper reads its slot only until it has written `STARTED` or `FAILED`; after that the agent reuses it.

use std::ffi::{c_int, c_long, c_void};
use std::ptr;

use super::table::{
    EMPTY, ExecBy, FAILED, FileIdentity, KEEPER, MAIN_ENDED, MAX_FDS, RawUsage, Record, SLOT, STARTED, Step,
    Table,
};

/// Descriptors are moved here first, so that none of them is in the way of 0, 1, 2, ...
const HIGH: c_int = 64;

/// From linux/sched.h; libc's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn errno() -> c_int {
    // SAFETY: returns the address of this thread's errno; the forking thread's TLS was copied with it.
    unsafe { *libc::__errno_location() }
}

/// A fork: no memory is shared, so the child runs on its own copy of this stack.
///
/// # Safety
/// The child may only do what this module's head allows, and must end in `execveat` or `exit`.
unsafe fn fork(flags: u64, exit_signal: u64, cgroup: Option<c_int>) -> c_long {
    let mut args = CloneArgs {
        flags,
        exit_signal,
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given; without CLONE_VM and a stack the child gets a copy of
    // this address space and returns here like from fork(2).
    unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) }
}

fn exit(code: c_int) -> ! {
    // SAFETY: ends this process; `_exit` runs no handlers of the copied agent.
    unsafe { libc::_exit(code) }
}

fn report(status: c_int, record: &Record) {
    // SAFETY: `record` is readable for its size. A lost record is a closed pipe: the agent is gone.
    unsafe {
        libc::write(status, ptr::from_ref(record).cast(), Record::SIZE);
    }
}

fn fail(status: c_int, step: Step) -> ! {
    report(status, &Record::new(FAILED, errno(), step as i64));
    exit(127)
}

/// Memory that the zygote drops: the agent's heap and stacks, with whatever secrets they hold.
pub(super) struct Forget {
    pub(super) ranges: Vec<(usize, usize)>,
}

/// Forks the zygote.
///
/// # Safety
/// `slots` starts `SLOTS * SLOT` bytes of shared memory; every range of `forget` is private anonymous memory of
/// this process that the zygote can do without, so not the calling thread's stack.
pub(super) unsafe fn fork_zygote(socket: c_int, slots: *const u8, forget: &Forget) -> c_long {
    // SAFETY: the child goes straight into `zygote`, which keeps to this module's rules.
    let pid = unsafe { fork(0, libc::SIGCHLD as u64, None) };
    if pid == 0 {
        // SAFETY: as the caller vouches.
        unsafe { zygote(socket, slots, forget) }
    }
    pid
}

unsafe fn zygote(socket: c_int, slots: *const u8, forget: &Forget) -> ! {
    // SAFETY: plain system calls with valid arguments. `forget.ranges` is itself in forgotten memory, so each range
    // is read before any is dropped that could hold the list: the list's own pages go last, see `drop_memory`.
    unsafe {
        reset_signals();
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, c"lictor-zygote".as_ptr());
        if libc::dup2(socket, 0) < 0 {
            exit(1);
        }
        libc::syscall(libc::SYS_close_range, 1, c_int::MAX as u32, 0);
        drop_memory(forget);
    }
    loop {
        let mut fds = [-1; MAX_FDS];
        let Some((slot, count)) = receive(&mut fds) else {
            exit(0)
        };
        // SAFETY: the agent sends only numbers of slots that it has filled with a table.
        let table = unsafe { &*slots.add(slot * SLOT).cast::<Table>() };
        // A keeper that enters namespaces is no longer allowed to move anybody into a cgroup, so it is born there.
        let cgroup = (table.has_cgroup && table.has_namespaces).then_some(fds[1]);
        // SAFETY: the child goes straight into `keeper`. CLONE_PARENT makes it the agent's child, who alone waits.
        let pid = unsafe { fork(libc::CLONE_PARENT as u64, 0, cgroup) };
        if pid == 0 {
            keeper(table, &fds[..count]);
        }
        if pid < 0 {
            report(fds[0], &Record::new(FAILED, errno(), Step::Fork as i64));
        }
        for fd in &fds[..count] {
            // SAFETY: closes a descriptor that this process received and nobody else uses.
            unsafe { libc::close(*fd) };
        }
    }
}

/// Drops the agent's memory, then resets this process's own high-water mark.
///
/// # Safety
/// See [`fork_zygote`].
unsafe fn drop_memory(forget: &Forget) {
    const MOST: usize = 256;
    let mut ranges = [(0_usize, 0_usize); MOST];
    let count = forget.ranges.len().min(MOST);
    ranges[..count].copy_from_slice(&forget.ranges[..count]);
    // SAFETY: the copy above is on this stack, which no range holds; the pages are private to this process, and
    // nothing that runs here reads them again.
    unsafe {
        for (start, len) in &ranges[..count] {
            libc::madvise(*start as *mut c_void, *len, libc::MADV_DONTNEED);
        }
        let fd = libc::open(
            c"/proc/self/clear_refs".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if fd >= 0 {
            libc::write(fd, c"5".as_ptr().cast(), 1);
            libc::close(fd);
        }
    }
}

/// Every signal back to its default, SIGPIPE included, which Rust programs ignore.
///
/// # Safety
/// After a fork only: other threads' handlers would vanish.
unsafe fn reset_signals() {
    // The kernel's struct sigaction: handler, flags, restorer, mask. All zero is SIG_DFL.
    let action = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: `action` has the kernel's layout and size on 64-bit Linux; SIGKILL and SIGSTOP fail harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                ptr::null_mut::<u8>(),
                8,
            )
        };
    }
}

/// One message: a slot number and its descriptors. `None` when the agent is gone.
fn receive(fds: &mut [c_int; MAX_FDS]) -> Option<(usize, usize)> {
    let mut slot = 0_u32;
    let mut control = [0_u64; 32];
    // SAFETY: all-zero is a valid msghdr; the pointers set below outlive the call.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut part = libc::iovec {
        iov_base: (&raw mut slot).cast(),
        iov_len: 4,
    };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: `message` points to live buffers of the sizes given; the CMSG macros walk only what was received.
    unsafe {
        if libc::recvmsg(0, &raw mut message, libc::MSG_CMSG_CLOEXEC) != 4 {
            return None;
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return None;
        }
        let count = ((*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<c_int>();
        let count = count.min(MAX_FDS);
        ptr::copy_nonoverlapping(libc::CMSG_DATA(header).cast::<c_int>(), fds.as_mut_ptr(), count);
        Some((slot as usize, count))
    }
}

/// The keeper of one job: starts the program, then waits for everything below it.
fn keeper(table: &Table, fds: &[c_int]) -> ! {
    let status = fds[0];
    let mut next = 1;
    let mut take = |present: bool| {
        present.then(|| {
            next += 1;
            fds[next - 1]
        })
    };
    let cgroup = take(table.has_cgroup);
    let namespaces = take(table.has_namespaces);
    let inherit = &fds[next..];
    // SAFETY: plain system calls with valid arguments, in a process of its own.
    let main = unsafe {
        report(status, &Record::new(KEEPER, libc::getpid(), 0));
        libc::prctl(libc::PR_SET_NAME, c"lictor-keeper".as_ptr());
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        if table.die_with_keeper {
            // And the keeper with the agent.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        if let Some(fd) = namespaces {
            // The box belongs to the unprivileged user, so it is entered as that user, never as root.
            if become_user(table) < 0 {
                fail(status, Step::Ids);
            }
            if libc::setns(fd, ALL_NAMESPACES) < 0 {
                fail(status, Step::Namespaces);
            }
        }
        let flags = libc::CLONE_VFORK as u64;
        fork(
            flags,
            libc::SIGCHLD as u64,
            cgroup.filter(|_| namespaces.is_none()),
        )
    };
    if main == 0 {
        program(table, status, inherit, namespaces.is_some());
    }
    if main < 0 {
        fail(status, Step::ForkProgram);
    }
    report(status, &Record::new(STARTED, main as i32, 0));
    // From here on the table may be another job's.
    // SAFETY: closes every descriptor of this process but the status pipe, which moves to 0.
    unsafe {
        libc::dup2(status, 0);
        libc::syscall(libc::SYS_close_range, 1, c_int::MAX as u32, 0);
    }
    wait_for_all(main as libc::pid_t)
}

const ALL_NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

fn wait_for_all(main: libc::pid_t) -> ! {
    let mut total = RawUsage::default();
    let mut others = 0;
    loop {
        let mut wait_status = 0;
        // SAFETY: all-zero is a valid rusage; both pointers are live.
        let (pid, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            let pid = libc::wait4(-1, &raw mut wait_status, libc::__WALL, &raw mut usage);
            (pid, usage)
        };
        if pid < 0 {
            if errno() == libc::EINTR {
                continue;
            }
            break;
        }
        total.user_us += usage.ru_utime.tv_sec * 1_000_000 + usage.ru_utime.tv_usec;
        total.system_us += usage.ru_stime.tv_sec * 1_000_000 + usage.ru_stime.tv_usec;
        total.max_rss_kib = total.max_rss_kib.max(usage.ru_maxrss);
        total.read_blocks += usage.ru_inblock;
        total.written_blocks += usage.ru_oublock;
        if pid == main {
            let mut record = Record::new(MAIN_ENDED, wait_status, i64::from(has_children()));
            record.usage = total;
            report(0, &record);
        } else {
            others += 1;
        }
    }
    let mut record = Record::new(EMPTY, others, 0);
    record.usage = total;
    report(0, &record);
    exit(0)
}

/// Whether anybody is left to wait for, zombies included.
fn has_children() -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: all-zero is a valid siginfo; nothing is taken away.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &raw mut info, flags) == 0
    }
}

/// Groups, group, user: all three kinds of id at once.
///
/// # Safety
/// In a single-threaded process only: raw calls change one thread.
unsafe fn become_user(table: &Table) -> c_long {
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

/// Becomes the program.
fn program(table: &Table, status: c_int, inherit: &[c_int], inside: bool) -> ! {
    // SAFETY: a process of its own, single-threaded; every pointer in the table was filled by the agent, which
    // waits for `STARTED` or `FAILED` before it touches the slot again.
    unsafe {
        // The zygote has reset every signal's handler already.
        if table.ignore_sigchld {
            // Ignored SIGCHLD survives execve and reaps children by itself: the sandbox's first process is one
            // that never waits.
            let action = [libc::SIG_IGN as u64, 0, 0, 0];
            libc::syscall(
                libc::SYS_rt_sigaction,
                libc::SIGCHLD,
                &raw const action,
                ptr::null_mut::<u8>(),
                8,
            );
        }
        let none = 0_u64;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u8>(),
            8,
        );
        libc::setsid();
        libc::umask(0o022);
        if table.die_with_keeper {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        let status = move_descriptors(status, inherit);
        if status < 0 {
            fail(-status, Step::Descriptors);
        }
        if table.cwd_before_ids && libc::chdir(table.cwd) < 0 {
            fail(status, Step::Directory);
        }
        if !inside && become_user(table) < 0 {
            fail(status, Step::Ids);
        }
        if !table.cwd_before_ids && libc::chdir(table.cwd) < 0 {
            fail(status, Step::Directory);
        }
        if table.confine && confine() < 0 {
            fail(status, Step::Confine);
        }
        for (resource, limit) in &table.rlimits[..table.rlimit_count] {
            let value = [*limit, *limit];
            let null = ptr::null_mut::<u8>();
            if libc::syscall(libc::SYS_prlimit64, 0, *resource, &raw const value, null) < 0 {
                fail(status, Step::Limits);
            }
        }
        execute(table, status, inherit.len() as c_int)
    }
}

/// Makes `inherit` 0, 1, 2, ... and everything else close-on-exec; returns where the status pipe is now, or minus
/// where it was.
unsafe fn move_descriptors(status: c_int, inherit: &[c_int]) -> c_int {
    let mut high = [0; MAX_FDS];
    // SAFETY: system calls on this process's own descriptors.
    unsafe {
        let moved = libc::fcntl(status, libc::F_DUPFD_CLOEXEC, HIGH);
        for (i, fd) in inherit.iter().enumerate() {
            high[i] = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, HIGH);
        }
        for (i, _) in inherit.iter().enumerate() {
            if libc::dup2(high[i], i as c_int) < 0 {
                return -status;
            }
        }
        let first = inherit.len() as u32;
        let flag = libc::CLOSE_RANGE_CLOEXEC;
        if moved < 0 || libc::syscall(libc::SYS_close_range, first, c_int::MAX as u32, flag) < 0 {
            return -status;
        }
        moved
    }
}

/// Gives up every privilege, for good.
unsafe fn confine() -> c_long {
    const VERSION_3: u32 = 0x2008_0522;
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: prctl, keyctl and capset on this process alone, with arguments of the kernel's layout.
    unsafe {
        // Keyrings are in no namespace: without this the job would share the agent's session keyring.
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<u8>());
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            return -1;
        }
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                break; // the first number past the last capability
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let header = [VERSION_3, 0];
        let nothing = [0_u32; 6];
        libc::syscall(libc::SYS_capset, &raw const header, &raw const nothing)
    }
}

unsafe fn execute(table: &Table, status: c_int, first_free: c_int) -> ! {
    // SAFETY: see `program`.
    unsafe {
        let mut program = -1;
        for (i, file) in table.files[..table.file_count].iter().enumerate() {
            let fd = libc::open(file.path, libc::O_PATH | libc::O_CLOEXEC);
            if fd < 0 {
                fail(status, Step::Open);
            }
            if identity_of(fd) != Some(file.identity) {
                fail(status, Step::Changed);
            }
            if i == 0 {
                program = fd;
            }
        }
        if !table.filter.is_null() {
            let filter = libc::sock_fprog {
                len: table.filter_len,
                filter: table.filter.cast_mut(),
            };
            let mode = libc::SECCOMP_MODE_FILTER;
            if libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter, 0, 0) < 0 {
                fail(status, Step::Seccomp);
            }
        }
        let path = table.files[0].path;
        match table.exec_by {
            ExecBy::Descriptor => {
                let (empty, flag) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
                libc::syscall(libc::SYS_execveat, program, empty, table.argv, table.envp, flag);
            }
            ExecBy::Path | ExecBy::Trusted => {
                libc::syscall(libc::SYS_execve, path, table.argv, table.envp);
            }
            ExecBy::DescriptorPath => {
                // The interpreter opens /dev/fd/N, so this one descriptor stays open.
                let fd = libc::dup2(program, first_free);
                let (empty, flag) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
                libc::syscall(libc::SYS_execveat, fd, empty, table.argv, table.envp, flag);
            }
        }
        fail(status, Step::Exec)
    }
}

fn identity_of(fd: c_int) -> Option<FileIdentity> {
    // SAFETY: all-zero is a valid stat; fstat fills it.
    let (result, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut stat), stat)
    };
    (result == 0).then_some(FileIdentity {
        dev: stat.st_dev,
        ino: stat.st_ino,
        ctime: stat.st_ctime,
        ctime_nsec: stat.st_ctime_nsec,
        size: stat.st_size,
    })
}
