//! Waits until the agent lets go of the other end of what it holds.
//!
//! It ignores the end of its children, so that orphans of the job leave no zombies; tells that it runs; and ends when
//! nobody holds the other end any more, and with it everybody in its pid namespace: a container goes when its agent
//! does, also by SIGKILL.

use crate::call::{self, number, system};

const SIG_IGN: usize = 1;
const EINTR: isize = -4;
const AT_FDCWD: usize = -100_isize as usize;
const O_WRONLY: usize = 1;
const O_NONBLOCK: usize = 0o4000;
const F_SETFL: usize = 4;

/// At its standard input; it tells that it runs by closing its output.
pub(crate) fn hold() -> ! {
    close(1);
    close(2);
    wait(0)
}

/// At the first of two, where it writes a byte into the second when it runs. Each is the path of a FIFO, or a descriptor
/// by its one digit. It waits for nobody to open the other side: an agent that is gone would never come.
///
/// # Safety
/// Both are strings.
pub(crate) unsafe fn hold_at(held: *const u8, told: *const u8) -> ! {
    // SAFETY: as the caller vouches.
    let (held, told) = unsafe { (open(held, 0), open(told, O_WRONLY)) };
    (0..3).for_each(close);
    let byte = b'r';
    // SAFETY: one byte that lives.
    unsafe { system(number::WRITE, [told, (&raw const byte) as usize, 1, 0, 0]) };
    close(told);
    wait(held)
}

fn close(descriptor: usize) {
    // SAFETY: nothing of this process needs it any more.
    unsafe { system(number::CLOSE, [descriptor, 0, 0, 0, 0]) };
}

/// # Safety
/// `word` is a string.
unsafe fn open(word: *const u8, flags: usize) -> usize {
    // SAFETY: as the caller vouches; a string has a first byte.
    unsafe {
        match *word {
            b'/' => {
                let file = system(number::OPENAT, [AT_FDCWD, word as usize, flags | O_NONBLOCK, 0, 0]) as usize;
                system(number::FCNTL, [file, F_SETFL, flags, 0, 0]);
                file
            }
            digit => usize::from(digit.wrapping_sub(b'0')),
        }
    }
}

fn wait(held: usize) -> ! {
    // Handler, flags, restorer, mask.
    let ignore = [SIG_IGN, 0, 0, 0];
    let mut byte = 0_u8;
    // SAFETY: system calls on this process alone; both pointers are live.
    unsafe {
        system(
            number::RT_SIGACTION,
            [call::SIGCHLD, (&raw const ignore) as usize, 0, 8, 0],
        );
        while matches!(
            system(number::READ, [held, (&raw mut byte) as usize, 1, 0, 0]),
            EINTR | 1
        ) {}
    }
    call::exit(0)
}
