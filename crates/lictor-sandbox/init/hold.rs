//! Waits until the agent lets go of the other end of its standard input.
//!
//! It ignores the end of its children, so that orphans of the job leave no zombies; tells that it runs by closing its
//! output; and ends when nobody holds its input any more, and with it everybody in its pid namespace: a container goes
//! when its agent does, also by SIGKILL.

use crate::call::{self, number, system};

const SIG_IGN: usize = 1;
const EINTR: isize = -4;

pub(crate) fn hold() -> ! {
    // Handler, flags, restorer, mask.
    let ignore = [SIG_IGN, 0, 0, 0];
    let mut byte = 0_u8;
    // SAFETY: system calls on this process alone; both pointers are live.
    unsafe {
        system(
            number::RT_SIGACTION,
            [call::SIGCHLD, (&raw const ignore) as usize, 0, 8, 0],
        );
        system(number::CLOSE, [1, 0, 0, 0, 0]);
        system(number::CLOSE, [2, 0, 0, 0, 0]);
        while matches!(
            system(number::READ, [0, (&raw mut byte) as usize, 1, 0, 0]),
            EINTR | 1
        ) {}
    }
    call::exit(0)
}
