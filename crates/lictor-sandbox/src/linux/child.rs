//! What runs after a fork: zygote, keepers, programs-to-be. Raw system calls only.
//!
//! ```text
//!   agent --fork once, at its start--> zygote: forgets the agent's memory, then makes keepers when asked
//!   zygote --clone3(CLONE_PARENT)----> keeper: a child of the agent, subreaper; one job after another
//!   keeper --clone3(CLONE_VM, CLONE_VFORK, CLONE_INTO_CGROUP)--> program: ids, descriptors, limits, filter, execveat
//! ```
//!
//! Why a zygote: a child made by vfork starts with the high-water mark of its parent's memory, so every job would
//! report the agent's size as its own peak; and a fork of a large agent is slow. The zygote has a few pages.
//! Why a keeper: orphans go to the nearest subreaper above them. With one per job, whatever a job double-forks
//! or puts into a session of its own stays below that job's keeper, also when it has left the job's cgroup, and its
//! use of CPU and memory is counted. A keeper has one job at a time and takes the next when nobody is left of the
//! last, so that a start makes one process and no more.
//!
//! # Invariants
//! - Nothing here allocates, locks, panics or returns to the code that forked: the process may be a copy of a
//!   multi-threaded one. `libc` functions used are plain system call wrappers.
//! - A keeper reads a slot only until it has said `STARTED` or `FAILED`; after that the agent reuses it.
//! - Neither zygote nor keeper can be traced or read by anybody but root.

mod clone;
mod cover;
mod judged;
mod keeper;
mod listen;
mod program;
mod tighten;

use std::ffi::{c_int, c_long, c_void};
use std::ptr;

use self::clone::Parent;
use super::table::{FAILED, MAX_FDS, Record, Step};

fn errno() -> c_int {
    // SAFETY: returns the address of this thread's errno; the forking thread's TLS was copied with it.
    unsafe { *libc::__errno_location() }
}

fn exit(code: c_int) -> ! {
    // SAFETY: ends this process; `_exit` runs no handlers of the copied agent.
    unsafe { libc::_exit(code) }
}

/// Makes a process in a user namespace of its own, which waits until every writing end of its pipe is closed, and ends.
/// Negative on failure, then with errno.
///
/// # Safety
/// `waits` and `ends` are the two ends of a pipe of the caller's.
pub(super) unsafe fn hold_user_namespace(waits: c_int, ends: c_int) -> c_long {
    // SAFETY: the child does nothing but what is below.
    let pid = unsafe { clone::fork_in_user_namespace() };
    if pid == 0 {
        let mut byte = 0_u8;
        // SAFETY: system calls on copies of the caller's descriptors, and on this stack.
        unsafe {
            libc::close(ends);
            while libc::read(waits, (&raw mut byte).cast(), 1) < 0 && errno() == libc::EINTR {}
        }
        exit(0)
    }
    pid
}

/// Takes away the status of a child that ends.
pub(super) fn wait_for(pid: libc::pid_t) {
    // SAFETY: no memory is written.
    unsafe { while libc::waitpid(pid, ptr::null_mut(), libc::__WALL) < 0 && errno() == libc::EINTR {} }
}

/// Whether the agent still listens.
fn report(socket: c_int, record: &Record) -> bool {
    // SAFETY: `record` is readable for its size.
    let sent = unsafe {
        libc::send(
            socket,
            ptr::from_ref(record).cast(),
            Record::SIZE,
            libc::MSG_NOSIGNAL,
        )
    };
    sent >= 0
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
    let pid = unsafe { clone::fork(Parent::Maker) };
    if pid == 0 {
        // SAFETY: as the caller vouches.
        unsafe { zygote(socket, slots, forget) }
    }
    pid
}

unsafe fn zygote(socket: c_int, slots: *const u8, forget: &Forget) -> ! {
    // SAFETY: system calls on this process's own state. Signals stay blocked until the handlers that were copied
    // from the agent are gone; the socket becomes descriptor 0 before everything else is closed.
    unsafe {
        reset_signals();
        let none = 0_u64;
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u8>(),
            8,
        );
        libc::prctl(libc::PR_SET_NAME, c"lictor-zygote".as_ptr());
        libc::setsid();
        keep_only(socket);
        drop_memory(forget);
        // After the last write to an own file below /proc, which this closes.
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
    }
    loop {
        let mut fds = [-1; MAX_FDS];
        let Some((_, count)) = receive(&mut fds) else {
            exit(0)
        };
        // SAFETY: the child goes straight into `keeper`. It becomes the agent's child, who alone waits for it.
        let pid = unsafe { clone::fork(Parent::MakersParent) };
        if pid == 0 {
            // SAFETY: as the caller vouches.
            unsafe { keeper::keeper(fds[0], slots) }
        }
        if pid < 0 {
            report(fds[0], &Record::new(FAILED, errno(), Step::Fork as i64));
        }
        close(&fds[..count]);
    }
}

/// Makes `fd` descriptor 0 and closes all others.
fn keep_only(fd: c_int) {
    // SAFETY: system calls on this process's own descriptors.
    unsafe {
        libc::dup2(fd, 0);
        libc::syscall(libc::SYS_close_range, 1, c_int::MAX as u32, 0);
    }
}

fn close(fds: &[c_int]) {
    for fd in fds {
        // SAFETY: closes a descriptor that this process received and nobody else uses.
        unsafe { libc::close(*fd) };
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
    for signal in 1..=64 {
        // SAFETY: as the caller vouches; SIGKILL and SIGSTOP fail harmlessly.
        unsafe { set_handler(signal, libc::SIG_DFL) };
    }
}

/// # Safety
/// `handler` is `SIG_DFL` or `SIG_IGN`, and this process's handlers are its own.
unsafe fn set_handler(signal: c_int, handler: libc::sighandler_t) {
    // The kernel's struct sigaction: handler, flags, restorer, mask.
    let action = [handler as u64, 0, 0, 0];
    // SAFETY: `action` has the kernel's layout and size on 64-bit Linux.
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

/// One message on descriptor 0: a slot number and its descriptors. `None` when the agent is gone.
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
        loop {
            let received = libc::recvmsg(0, &raw mut message, libc::MSG_CMSG_CLOEXEC);
            if received < 0 && errno() == libc::EINTR {
                continue;
            }
            if received != 4 {
                return None;
            }
            break;
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
