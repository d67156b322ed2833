//! Making processes: by a copy of memory, or on a stack of its own in the maker's memory.

use std::ffi::{c_int, c_long, c_void};

/// From linux/sched.h; libc's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Bytes of a start's stack; what runs on it calls a few functions deep and allocates nothing.
pub(super) const STACK: usize = 64 * 1024;

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

/// Where a new process stands in the tree.
#[derive(Clone, Copy)]
pub(super) enum Parent {
    /// Below its maker.
    Maker,
    /// Beside its maker.
    MakersParent,
}

fn arguments(parent: Parent, cgroup: Option<c_int>) -> CloneArgs {
    let mut args = match parent {
        Parent::Maker => CloneArgs {
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        },
        // The kernel allows no signal of its own with this flag.
        Parent::MakersParent => CloneArgs {
            flags: libc::CLONE_PARENT as u64,
            ..CloneArgs::default()
        },
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd as u64;
    }
    args
}

/// A fork: no memory is shared, so the child runs on its own copy of this stack. 0 in the child, negative on failure
/// (then with errno).
///
/// # Safety
/// The child may only do what `child`'s head allows, and must end in `execveat` or `exit`.
pub(super) unsafe fn fork(parent: Parent) -> c_long {
    let args = arguments(parent, None);
    // SAFETY: `args` is a valid clone_args of the size given; without CLONE_VM and a stack the child gets a copy of
    // this address space and returns here like from fork(2).
    unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) }
}

/// A fork into a user namespace of its own.
///
/// # Safety
/// As [`fork`].
pub(super) unsafe fn fork_in_user_namespace() -> c_long {
    let mut args = arguments(Parent::Maker, None);
    args.flags |= libc::CLONE_NEWUSER as u64;
    // SAFETY: as in `fork`.
    unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) }
}

/// Runs `entry(argument)` in a new process that shares this one's memory, so that nothing of it is copied; this
/// process stands still until that one has executed a program or ended. Minus errno on failure.
///
/// # Safety
/// `stack` starts `STACK` writable bytes, aligned to 16, that nobody else uses; `entry` keeps to `child`'s rules and
/// changes nothing in shared memory but what `argument` leads to.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn start(
    stack: *mut u8,
    parent: Parent,
    cgroup: Option<c_int>,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> c_long {
    let mut args = arguments(parent, cgroup);
    args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    args.stack = stack as u64;
    args.stack_size = STACK as u64;
    let result: c_long;
    // SAFETY: the child gets rsp = stack + STACK and goes straight into `entry`, which never returns; it touches no
    // byte of this stack. The parent goes on at label 2 with everything but rax, rcx and r11 as before.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const args,
            in("rsi") size_of::<CloneArgs>(),
            in("r8") argument,
            in("r9") entry,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// As above, with a copy of memory: this architecture's few lines of assembly are not written. `argument` must
/// lead to memory that forks share.
///
/// # Safety
/// As above.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn start(
    _stack: *mut u8,
    parent: Parent,
    cgroup: Option<c_int>,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> c_long {
    let mut args = arguments(parent, cgroup);
    args.flags |= libc::CLONE_VFORK as u64;
    // SAFETY: like `fork`; the child goes straight into `entry`.
    unsafe {
        let result = libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>());
        match result {
            0 => entry(argument),
            n if n < 0 => -c_long::from(super::errno()),
            n => n,
        }
    }
}
