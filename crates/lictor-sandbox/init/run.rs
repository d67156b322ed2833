//! Starts a program and tells how that went, where the agent cannot see into the container.
//!
//! ```text
//!   run DIRECTORY PROGRAM PORT PROCESSES UMASK N N*(resource soft hard) M M*(NAME=value) "" argument...
//! ```
//!
//! Where PORT is not 0, standard input is a socket to the agent, through which the program's own comes first: see `relay`.
//! Where PROCESSES is not 0, there may be so many: see `processes`.
//!
//! What is told are records of three numbers in a file of the agent's: that the program runs; or at which step its
//! start has failed, and why; and its wait status, with how many processes it has left behind, which are killed. The
//! program is another user, so it can neither signal this process nor write to that file.
//!
//! Signals that this process gets are for everybody in the container.

use core::ptr;

use crate::call::{self, SIGCHLD, number, system};
use crate::processes;
use crate::relay::Relay;
use crate::socket::{self, Wait, Word};

const REPORT: &[u8] = b"/.lictor/told/report\0";
const FILTER: &[u8] = b"/.lictor/filter\0";

/// Devices that runsc has in its sandboxes whether it is asked to or not.
const DEVICES: [&[u8]; 2] = [b"/dev/fuse\0", b"/dev/net/tun\0"];

/// The container's only user.
const USER: usize = 1000;

const STARTED: i32 = 1;
const FAILED: i32 = 2;
const ENDED: i32 = 3;

/// Numbers of the agent's `Step`s.
mod step {
    pub(super) const IDS: i32 = 2;
    pub(super) const DESCRIPTORS: i32 = 5;
    pub(super) const CONFINE: i32 = 6;
    pub(super) const LIMITS: i32 = 8;
    pub(super) const DIRECTORY: i32 = 9;
    pub(super) const SECCOMP: i32 = 12;
    pub(super) const EXEC: i32 = 13;
    pub(super) const LISTEN: i32 = 15;
    pub(super) const TIGHTEN: i32 = 18;
}

const WNOHANG: usize = 1;
const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
const SIGKILL: usize = 9;
const EINTR: isize = -4;
const ENOENT: isize = -2;
const EPIPE: isize = -32;
const CLONE_VFORK: usize = 0x4000;
const AT_FDCWD: usize = -100_isize as usize;
const O_WRONLY_APPEND_CLOEXEC: usize = 0o1 | 0o2000 | 0o2_000_000;
const O_CLOEXEC: usize = 0o2_000_000;

/// Everything about the start.
struct Start<'a> {
    report: usize,
    directory: *const u8,
    program: *const u8,
    /// Of the way out; 0 for none.
    port: u16,
    /// How many there may be; 0 for any number.
    processes: u64,
    /// The permission bits that its files are without.
    umask: usize,
    /// Three words each.
    limits: &'a [*const u8],
    environment: *const *const u8,
    arguments: *const *const u8,
}

/// The runtime gives everybody an environment, which others can read.
///
/// # Safety
/// Pointers to strings of this process's own, and a null pointer behind them; nobody else uses them.
pub(crate) unsafe fn forget_environment(mut variables: *const *const u8) {
    // SAFETY: as the caller vouches.
    unsafe {
        while !(*variables).is_null() {
            wipe(*variables);
            variables = variables.add(1);
        }
    }
}

/// # Safety
/// `words` are the arguments of this program, each a string, and a null pointer behind them.
pub(crate) unsafe fn run(words: &mut [*const u8]) -> ! {
    // SAFETY: strings, as the caller vouches.
    let (first, count) = (words.as_ptr(), words.len());
    let Some(start) = (unsafe { read(words) }) else {
        call::exit(125)
    };
    let all = !0_u64;
    // SAFETY: of this process alone; the set is live.
    unsafe {
        system(
            number::RT_SIGPROCMASK,
            [SIG_BLOCK, (&raw const all) as usize, 0, 8, 0],
        );
    }
    take_devices_away(&start);
    let mut relay = (start.port != 0).then(|| open_way_out(&start));
    // SAFETY: system calls on this process alone. The new process has a copy of this memory.
    let main = unsafe {
        let main = system(number::CLONE, [SIGCHLD | CLONE_VFORK, 0, 0, 0, 0]);
        if main == 0 {
            become_program(&start);
        }
        main
    };
    if main < 0 {
        tell(start.report, [FAILED, step::EXEC, -main as i32]);
        call::exit(125);
    }
    // It executes its program by now, or has told why it does not. Its words are its own; others can read these here.
    // SAFETY: strings of this process's own, which nobody uses any more.
    unsafe { forget(core::slice::from_raw_parts(first, count)) };
    tell(start.report, [STARTED, main as i32, 0]);
    if let Some(relay) = &relay {
        relay.take_room();
    }
    let status = wait_for(main, relay.as_mut());
    let left = end_all();
    if let Some(relay) = &mut relay {
        relay.flush();
    }
    tell(start.report, [ENDED, status, left]);
    call::exit(0)
}

/// Nobody can make them again: the directory is this process's, and the job may make no device.
fn take_devices_away(start: &Start<'_>) {
    for path in DEVICES {
        // SAFETY: each path ends with a NUL.
        let taken = unsafe { system(number::UNLINKAT, [AT_FDCWD, path.as_ptr() as usize, 0, 0, 0]) };
        if taken != ENOENT {
            check(start, step::TIGHTEN, taken);
        }
    }
}

/// Takes the program's input from the agent, in place of the socket that it comes through, and listens.
fn open_way_out(start: &Start<'_>) -> Relay {
    const F_DUPFD_CLOEXEC: usize = 1030;
    const INPUT: usize = 0;
    const PAST_THE_PROGRAMS: usize = 3;
    // SAFETY: of this process's descriptors alone.
    let agent = unsafe { system(number::FCNTL, [INPUT, F_DUPFD_CLOEXEC, PAST_THE_PROGRAMS, 0, 0]) };
    check(start, step::DESCRIPTORS, agent);
    let agent = agent as usize;
    let Word::Said(Some(input)) = socket::hear(agent, Wait::Yes) else {
        fail(start, step::DESCRIPTORS, EPIPE)
    };
    // SAFETY: as above.
    check(start, step::DESCRIPTORS, unsafe {
        system(number::DUP3, [input, INPUT, 0, 0, 0])
    });
    socket::close(input);
    // SAFETY: this is the only place that makes one, once; signals are blocked.
    match unsafe { Relay::open(start.port, agent) } {
        Ok(relay) => relay,
        Err(error) => fail(start, step::LISTEN, error),
    }
}

/// # Safety
/// As `run`.
unsafe fn forget(words: &[*const u8]) {
    for word in words.iter().skip(1).filter(|w| !w.is_null()) {
        // SAFETY: as the caller vouches.
        unsafe { wipe(*word) };
    }
}

/// # Safety
/// A string of this process's own.
unsafe fn wipe(string: *const u8) {
    let mut at = string.cast_mut();
    // SAFETY: up to the NUL at its end.
    unsafe {
        while *at != 0 {
            at.write_volatile(0);
            at = at.add(1);
        }
    }
}

/// # Safety
/// As `run`.
unsafe fn read(words: &mut [*const u8]) -> Option<Start<'_>> {
    // SAFETY: strings of the caller's, and constants.
    unsafe {
        let report = open(REPORT, O_WRONLY_APPEND_CLOEXEC)?;
        let (directory, program) = (*words.get(2)?, *words.get(3)?);
        let (port, processes) = (parse(*words.get(4)?) as u16, parse(*words.get(5)?));
        let umask = parse(*words.get(6)?) as usize;
        let first_limit = 8;
        let first_variable = first_limit + 3 * parse(*words.get(7)?) as usize + 1;
        let gap = first_variable + parse(*words.get(first_variable - 1)?) as usize;
        // Ends the environment.
        *words.get_mut(gap)? = ptr::null();
        Some(Start {
            report,
            directory,
            program,
            port,
            processes,
            umask,
            limits: words.get(first_limit..first_variable - 1)?,
            environment: words.get(first_variable..)?.as_ptr(),
            arguments: words.get(gap + 1..)?.as_ptr(),
        })
    }
}

/// # Safety
/// In a process of its own.
unsafe fn become_program(start: &Start<'_>) -> ! {
    let none = 0_u64;
    // SAFETY: system calls on this process alone, with live pointers of the kernel's layout.
    unsafe {
        system(number::SETSID, [0; 5]);
        system(number::UMASK, [start.umask, 0, 0, 0, 0]);
        system(
            number::RT_SIGPROCMASK,
            [SIG_SETMASK, (&raw const none) as usize, 0, 8, 0],
        );
        for limit in start.limits.chunks_exact(3) {
            let value = [parse(limit[1]), parse(limit[2])];
            let resource = parse(limit[0]) as usize;
            check(
                start,
                step::LIMITS,
                system(
                    number::PRLIMIT64,
                    [0, resource, (&raw const value) as usize, 0, 0],
                ),
            );
        }
        give_up_privileges(start);
        if start.processes > 0 {
            check(start, step::LIMITS, processes::limit(start.processes));
        }
        check(
            start,
            step::DIRECTORY,
            system(number::CHDIR, [start.directory as usize, 0, 0, 0, 0]),
        );
        install_filter(start);
        let (arguments, environment) = (start.arguments as usize, start.environment as usize);
        let failed = system(
            number::EXECVE,
            [start.program as usize, arguments, environment, 0, 0],
        );
        fail(start, step::EXEC, failed)
    }
}

/// # Safety
/// As `become_program`.
unsafe fn give_up_privileges(start: &Start<'_>) {
    const PR_CAPBSET_DROP: usize = 24;
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    const VERSION_3: u32 = 0x2008_0522;
    let (header, nothing) = ([VERSION_3, 0], [0_u32; 6]);
    // SAFETY: as the caller vouches.
    unsafe {
        for capability in 0..64 {
            if system(number::PRCTL, [PR_CAPBSET_DROP, capability, 0, 0, 0]) < 0 {
                break; // the first number past the last capability
            }
        }
        check(start, step::IDS, system(number::SETGROUPS, [0; 5]));
        check(
            start,
            step::IDS,
            system(number::SETRESGID, [USER, USER, USER, 0, 0]),
        );
        check(
            start,
            step::IDS,
            system(number::SETRESUID, [USER, USER, USER, 0, 0]),
        );
        check(
            start,
            step::CONFINE,
            system(number::PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]),
        );
        let words = [
            (&raw const header) as usize,
            (&raw const nothing) as usize,
            0,
            0,
            0,
        ];
        check(start, step::CONFINE, system(number::CAPSET, words));
    }
}

/// # Safety
/// As `become_program`.
unsafe fn install_filter(start: &Start<'_>) {
    const PR_SET_SECCOMP: usize = 22;
    const MODE_FILTER: usize = 2;
    const INSTRUCTION: usize = 8;
    /// As many as the kernel takes.
    const MOST: usize = 4096;
    #[repr(align(8))]
    struct Room([u8; MOST * INSTRUCTION]);
    static mut ROOM: Room = Room([0; MOST * INSTRUCTION]);
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: usize,
    }
    // SAFETY: this process has one thread, and nobody else uses the room.
    unsafe {
        let room = (&raw mut ROOM.0) as usize;
        let Some(file) = open(FILTER, O_CLOEXEC) else {
            fail(start, step::SECCOMP, -2)
        };
        let mut length = 0;
        loop {
            let read = system(
                number::READ,
                [file, room + length, MOST * INSTRUCTION - length, 0, 0],
            );
            check(start, step::SECCOMP, read);
            if read == 0 {
                break;
            }
            length += read as usize;
        }
        let program = Program {
            length: (length / INSTRUCTION) as u16,
            instructions: room,
        };
        let words = [PR_SET_SECCOMP, MODE_FILTER, (&raw const program) as usize, 0, 0];
        check(start, step::SECCOMP, system(number::PRCTL, words));
    }
}

/// Waits for the program's end. Other signals are passed on, and other children are taken away.
fn wait_for(main: isize, mut relay: Option<&mut Relay>) -> i32 {
    let all = !0_u64;
    loop {
        // SAFETY: live pointers; signals to whoever this process may signal.
        unsafe {
            let signal = match &mut relay {
                Some(relay) => relay.until_signal(),
                None => system(number::RT_SIGTIMEDWAIT, [(&raw const all) as usize, 0, 0, 8, 0]),
            };
            if signal > 0 && signal as usize != SIGCHLD {
                system(number::KILL, [usize::MAX, signal as usize, 0, 0, 0]);
            }
            loop {
                let mut status = 0_i32;
                let ended = system(
                    number::WAIT4,
                    [usize::MAX, (&raw mut status) as usize, WNOHANG, 0, 0],
                );
                if ended == main {
                    return status;
                }
                if ended <= 0 {
                    break;
                }
            }
        }
    }
}

/// Kills everybody else; returns how many they were.
fn end_all() -> i32 {
    let mut left = 0;
    loop {
        // SAFETY: signals to whoever this process may signal; no memory is written.
        let ended = unsafe {
            system(number::KILL, [usize::MAX, SIGKILL, 0, 0, 0]);
            system(number::WAIT4, [usize::MAX, 0, 0, 0, 0])
        };
        match ended {
            EINTR => {}
            pid if pid > 0 => left += 1,
            _ => return left,
        }
    }
}

fn tell(report: usize, record: [i32; 3]) {
    // SAFETY: the record is live.
    unsafe { system(number::WRITE, [report, (&raw const record) as usize, 12, 0, 0]) };
}

fn check(start: &Start<'_>, step: i32, result: isize) {
    if result < 0 {
        fail(start, step, result);
    }
}

fn fail(start: &Start<'_>, step: i32, result: isize) -> ! {
    tell(start.report, [FAILED, step, -result as i32]);
    call::exit(127)
}

fn open(path: &[u8], flags: usize) -> Option<usize> {
    // SAFETY: every path here ends with a NUL.
    let file = unsafe { system(number::OPENAT, [AT_FDCWD, path.as_ptr() as usize, flags, 0, 0]) };
    usize::try_from(file).ok()
}

/// # Safety
/// A string.
unsafe fn parse(text: *const u8) -> u64 {
    let (mut value, mut at) = (0_u64, text);
    // SAFETY: up to the NUL at its end.
    unsafe {
        while (*at).is_ascii_digit() {
            value = value.wrapping_mul(10).wrapping_add(u64::from(*at - b'0'));
            at = at.add(1);
        }
    }
    value
}
