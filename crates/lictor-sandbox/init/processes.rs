//! How many processes and threads a job may have, zombies included: the kernel counts them for the job's user, whom
//! nobody else is.

use crate::call::{self, SIGCHLD, number, system};

const NPROC: usize = 6;
const CLONE_VFORK: usize = 0x4000;
const EAGAIN: isize = -11;
const ENOSYS: isize = -38;

/// Sets the limit for this process and whoever comes of it, or says why it does not hold. Some kernels count this
/// process, which somebody else has made, and some do not: that is found out by trying.
///
/// # Safety
/// In a process of its own, which is the job's user and has no privileges.
pub(crate) unsafe fn limit(processes: u64) -> isize {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut set = set([0, processes]);
        if set >= 0 && another() != EAGAIN {
            return ENOSYS;
        }
        set = set.min(self::set([1, processes]));
        let others = match another() {
            EAGAIN => processes,
            made if made < 0 => return made,
            _ => processes - 1,
        };
        set.min(self::set([others, others]))
    }
}

/// # Safety
/// As `limit`.
unsafe fn set(value: [u64; 2]) -> isize {
    // SAFETY: of this process alone; the value is live.
    unsafe { system(number::PRLIMIT64, [0, NPROC, (&raw const value) as usize, 0, 0]) }
}

/// Makes one, which ends.
///
/// # Safety
/// As `limit`.
unsafe fn another() -> isize {
    // SAFETY: the new process has a copy of this memory, and ends at once.
    unsafe {
        let made = system(number::CLONE, [SIGCHLD | CLONE_VFORK, 0, 0, 0, 0]);
        match made {
            0 => call::exit(0),
            1.. => system(number::WAIT4, [made as usize, 0, 0, 0, 0]),
            _ => made,
        }
    }
}
