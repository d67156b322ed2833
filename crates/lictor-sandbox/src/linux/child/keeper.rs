//! A keeper: starts one program after another, each when nobody is left of the one before.
//!
//! ```text
//!   wait for a table --> start --> STARTED --> wait for everybody below --> MAIN_ENDED [--> EMPTY] --.
//!        ^                  '----> FAILED --.                                                        |
//!        '----------------------------------'--------------------------------------------------------'
//! ```

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use super::clone::{self, Parent, STACK};
use super::program::{self, Start};
use super::{close, errno, exit, keep_only, listen, receive, report, tighten, wait_for};
use crate::linux::table::{
    EMPTY, FAILED, KEEPER, MAIN_ENDED, MAX_FDS, RawUsage, Record, SLOT, STARTED, Step, Table,
};

/// The agent's socket, in a keeper.
const SOCKET: c_int = 0;
/// What a keeper without a job is called.
const NAME: &CStr = c"lictor-keeper";

/// Never returns; ends when the agent has closed the other end and no job is left.
///
/// # Safety
/// In a process of its own; `slots` as for `fork_zygote`.
pub(super) unsafe fn keeper(socket: c_int, slots: *const u8) -> ! {
    // SAFETY: plain system calls in a process of its own. The stacks are fresh private memory.
    let stacks = unsafe {
        keep_only(socket);
        be_called(NAME.as_ptr());
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        libc::mmap(ptr::null_mut(), 2 * STACK, access, kind, -1, 0)
    };
    if stacks == libc::MAP_FAILED {
        report(SOCKET, &Record::new(FAILED, errno(), Step::Fork as i64));
        exit(1);
    }
    // SAFETY: getpid always succeeds.
    report(SOCKET, &Record::new(KEEPER, unsafe { libc::getpid() }, 0));
    let mut confined = false;
    loop {
        let mut fds = [-1; MAX_FDS];
        let Some((slot, count)) = receive(&mut fds) else {
            exit(0)
        };
        // SAFETY: the agent sends only numbers of slots that it has filled with a table.
        let table = unsafe { &*slots.add(slot * SLOT).cast::<Table>() };
        if table.taken.swap(true, Ordering::AcqRel) {
            close(&fds[..count]);
            continue;
        }
        if table.die_with_keeper {
            die_with_agent(libc::SIGKILL);
        }
        if !table.keeper_name.is_null() {
            be_called(table.keeper_name);
        }
        if table.confine && !table.has_namespaces && !confined {
            // Once for all of its jobs: it is 40 system calls. The agent gives it no others from now on.
            // SAFETY: prctl on this process alone, which keeps the rights that it has.
            unsafe { program::drop_bounding_set() };
            confined = true;
        }
        // Read now: the agent fills the slot anew when it has heard of the start.
        let ends_alone = table.ends_alone;
        // SAFETY: the mapping above is used by one start at a time.
        let started = unsafe { start(table, &fds[..count], stacks.cast()) };
        attend(started, &fds[..count], ends_alone);
        die_with_agent(0);
        be_called(NAME.as_ptr());
    }
}

/// An agent that comes back finds the keeper of a job by this, also when its start was never written down. A name is
/// what anybody may read of a process that nobody may trace, so it serves an agent that is not root, too.
fn be_called(name: *const c_char) {
    // SAFETY: `name` is a string that the agent has put into the table, or a literal; changes this process alone.
    unsafe { libc::prctl(libc::PR_SET_NAME, name) };
}

/// A sandbox ends with its agent: the keeper with the agent, bwrap with the keeper, everything else with bwrap.
fn die_with_agent(signal: c_int) {
    // SAFETY: changes this process alone.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}

/// Tells how the start went, then waits until nobody is left.
fn attend(started: Result<libc::pid_t, Record>, fds: &[c_int], ends_alone: bool) {
    match started {
        Ok(main) => {
            let heard = report(SOCKET, &Record::new(STARTED, main, 0));
            close(fds);
            if !heard {
                // The agent went away before it could write down that this runs.
                // SAFETY: a child of this process that it has not waited for.
                unsafe { libc::kill(main, libc::SIGKILL) };
            }
            wait_for_all(main, ends_alone);
        }
        Err(failure) => {
            close(fds);
            report(SOCKET, &failure);
        }
    }
}

/// Makes the program's process; returns when it has executed the program, or with why it has not.
///
/// # Safety
/// `stacks` starts two stacks that nobody uses.
unsafe fn start(table: &Table, fds: &[c_int], stacks: *mut u8) -> Result<libc::pid_t, Record> {
    let mut next = 0;
    let mut take = |present: bool| {
        present.then(|| {
            next += 1;
            fds[next - 1]
        })
    };
    let cgroup = take(table.has_cgroup);
    let namespaces = take(table.has_namespaces);
    let mounts = take(table.has_mounts);
    let users = take(table.has_users);
    let ruleset = take(table.has_ruleset);
    let mount = take(!table.mount_at.is_null());
    // SAFETY: offsets within the two stacks.
    let second = unsafe { stacks.add(STACK) };
    let rest = &fds[next..];
    let (gates, rest) = rest.split_at((table.gates as usize).min(rest.len()));
    let (inherit, copies) = rest.split_at((table.inherit as usize).min(rest.len()));
    let is_program = table.listen_port == 0 && table.tightened_count == 0;
    let inside = namespaces.filter(|_| is_program).and_then(Children::into);
    let start = Start {
        table,
        namespaces,
        mounts,
        born_inside: inside.is_some(),
        users,
        ruleset,
        mount,
        gates,
        inherit,
        copies,
        stack: second,
    };
    let argument = (&raw const start).cast_mut().cast::<c_void>();
    let entry = match namespaces {
        Some(_) if table.listen_port != 0 => listen::listen,
        Some(_) if !is_program => tighten::tighten,
        Some(_) if inside.is_none() => program::enter,
        _ => program::become_program,
    };
    // SAFETY: `start` outlives the call, during which this process stands still; each process has its own stack.
    let made = unsafe { clone::start(stacks, Parent::Maker, cgroup, entry, argument) };
    if let Some(inside) = inside {
        inside.back(made);
    }
    if made < 0 {
        return Err(Record::new(FAILED, -made as c_int, Step::ForkProgram as i64));
    }
    outcome(table, made)
}

/// While this is there, who is made is in another pid namespace.
struct Children {
    /// This process, by whose namespace it is undone.
    own: c_int,
}

impl Children {
    /// `None` when this process has no right to that: its agent is not root.
    fn into(namespaces: c_int) -> Option<Self> {
        // SAFETY: system calls on this process alone.
        unsafe {
            let own = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) as c_int;
            if own < 0 {
                return None;
            }
            if libc::setns(namespaces, libc::CLONE_NEWPID) < 0 {
                libc::close(own);
                return None;
            }
            Some(Self { own })
        }
    }

    /// As it was before. Who could not be would start the next job in this one's namespace, and ends, with who was made.
    fn back(self, made: c_long) {
        // SAFETY: as above; `made` is a child of this process that it has not waited for.
        unsafe {
            if libc::setns(self.own, libc::CLONE_NEWPID) < 0 {
                if made > 0 {
                    libc::kill(made as libc::pid_t, libc::SIGKILL);
                }
                exit(1);
            }
            libc::close(self.own);
        }
    }
}

fn outcome(table: &Table, made: c_long) -> Result<libc::pid_t, Record> {
    let made = made as libc::pid_t;
    let main = match table.main.load(Ordering::Acquire) {
        0 => made,
        main => {
            // Whoever entered the namespaces is at its end.
            wait_for(made);
            main
        }
    };
    let step = table.failed_step.load(Ordering::Acquire);
    if step == 0 {
        return Ok(main);
    }
    wait_for(main);
    Err(Record::new(
        FAILED,
        table.failed_errno.load(Ordering::Acquire),
        step,
    ))
}

fn wait_for_all(main: libc::pid_t, ends_alone: bool) {
    let mut total = RawUsage::default();
    let (mut others, mut main_ended) = (0, false);
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
        add(&mut total, &usage);
        main_ended |= pid == main;
        if main_ended && ends_alone && is_alone() {
            end_children();
        }
        if pid != main {
            others += 1;
            continue;
        }
        let left = has_children();
        let mut record = Record::new(MAIN_ENDED, wait_status, i64::from(left));
        record.usage = total;
        report(SOCKET, &record);
        if !left {
            return;
        }
    }
    let mut record = Record::new(EMPTY, others, 0);
    record.usage = total;
    report(SOCKET, &record);
}

/// Whether there is no agent any more, or none that wants to know of this.
fn is_alone() -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: one byte of this stack; nothing is taken away.
    unsafe { libc::recv(SOCKET, (&raw mut byte).cast(), 1, flags) == 0 }
}

/// Kills whoever is right below this process. Whom they leave is there when they have been waited for.
fn end_children() {
    let mut list = [0_u8; 4096];
    // SAFETY: system calls with a literal and with memory of this stack; nobody waits for a child but this process, so
    // a number means the same one until then.
    unsafe {
        let file = libc::open(
            c"/proc/thread-self/children".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        );
        let length = libc::read(file, list.as_mut_ptr().cast(), list.len());
        libc::close(file);
        let list = list.get(..usize::try_from(length).unwrap_or(0)).unwrap_or(&[]);
        let mut pid: libc::pid_t = 0;
        for byte in list {
            if byte.is_ascii_digit() {
                pid = pid.wrapping_mul(10).wrapping_add(libc::pid_t::from(byte - b'0'));
            } else if pid > 0 {
                libc::kill(pid, libc::SIGKILL);
                pid = 0;
            }
        }
    }
}

fn add(total: &mut RawUsage, usage: &libc::rusage) {
    total.user_us += usage.ru_utime.tv_sec * 1_000_000 + usage.ru_utime.tv_usec;
    total.system_us += usage.ru_stime.tv_sec * 1_000_000 + usage.ru_stime.tv_usec;
    total.max_rss_kib = total.max_rss_kib.max(usage.ru_maxrss);
    total.read_blocks += usage.ru_inblock;
    total.written_blocks += usage.ru_oublock;
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
