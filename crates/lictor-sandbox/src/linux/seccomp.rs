//! The system call filters of sandboxes.
//!
//! A deny list over everything that reaches past the namespaces or has been a way out of them before. Other
//! architectures' calls and x32 end the process: their numbers would slip past the list.

mod program;

use std::collections::BTreeMap;

use libc::sock_filter;

use self::program::{Answer, Condition, Ranges, Rule, Test, compile};

/// What is not simply allowed, by number.
type Answers = BTreeMap<u32, Answer>;

/// Why no filter could be made.
#[derive(Debug, thiserror::Error)]
#[error("this architecture has no system call filter here")]
pub(crate) struct FilterError;

/// Denied whatever their arguments.
const DENIED: &[i64] = &[
    // Mounts and namespaces
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Keyrings are in no namespace
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Large parts of the kernel that no job needs
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_lookup_dcookie,
    libc::SYS_vhangup,
    // The machine as a whole
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_nfsservctl,
    // Other processes' memory
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
];

/// Denied besides where nothing but the filter keeps a job from the host's own: objects with names or keys that every
/// process can use, and other processes of the same user.
const DENIED_OUTSIDE: &[i64] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_socket,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_ioprio_set,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
];

/// Denied besides on this architecture.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[libc::SYS_modify_ldt, libc::SYS_ioperm, libc::SYS_iopl];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

// Newer than the C library's list; every architecture has the same numbers from 424 on.
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_OPEN_TREE_ATTR: i64 = 467;
const SYS_FILE_SETATTR: i64 = 469;
/// The last call that was looked at when this list was made (Linux 6.18).
const LAST_KNOWN: u32 = 469;

/// What `personality` may be asked: what it is, and Linux with and without the names of its machine and version made
/// older. Everything else makes memory predictable or executable.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];
/// Protocols of IPv4 and IPv6: the usual one, TCP, UDP.
const PROTOCOLS: [u32; 3] = [0, 6, 17];
/// Flags of clone(2) that make namespaces.
const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;
/// The kind of a socket, without its flags.
const KIND: u32 = 0xf;

/// What else keeps a job in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// Namespaces: there are none of the host's objects to name.
    Namespaces,
    /// Nothing: there must be no way to name them.
    Nothing,
}

const TIOCLINUX: u32 = 0x541C;
const TIOCSETD: u32 = 0x5423;
const X32_BIT: u32 = 0x4000_0000;

/// The kernel's name of the architecture whose calls have the numbers of this list.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// Makes a filter.
pub(crate) fn filter(around: Around) -> Result<Vec<sock_filter>, FilterError> {
    let architecture = ARCHITECTURE.ok_or(FilterError)?;
    Ok(compile(architecture, &ranges(&answers(around))))
}

/// What becomes of each call that is known and not simply allowed.
fn answers(around: Around) -> Answers {
    let mut answers = Answers::new();
    let mut set = |call: i64, answer: Answer| drop(answers.insert(call as u32, answer));
    for call in DENIED.iter().chain(DENIED_HERE) {
        set(*call, Answer::Deny);
    }
    // Its flags are where a filter cannot see them; libraries fall back to `clone`, whose flags it can.
    set(libc::SYS_clone3, Answer::Absent);
    let namespaces = condition(0, Test::HasAny(NAMESPACES as u32));
    set(libc::SYS_clone, Answer::DenyIf(vec![vec![namespaces]]));
    // Terminal input faked into whoever shares the terminal. The kernel looks at 32 bits of the number only, and so
    // does the comparison: `TIOCSTI + 2^32` is the same request. And line disciplines: setting one loads its module.
    let requests = [libc::TIOCSTI as u32, TIOCLINUX, TIOCSETD];
    let ioctls = requests.map(|request| vec![condition(1, Test::Is(request))]);
    set(libc::SYS_ioctl, Answer::DenyIf(ioctls.to_vec()));
    set(libc::SYS_socket, Answer::DenyIf(socket_rules()));
    let pairs = match around {
        Around::Namespaces => socket_rules(),
        Around::Nothing => pair_rules(),
    };
    set(libc::SYS_socketpair, Answer::DenyIf(pairs));
    let unusual = all_but(0, &PERSONALITIES);
    set(libc::SYS_personality, Answer::DenyIf(vec![unusual]));
    // Whoever may not has no way to, but in a kernel that takes it lightly.
    let mut priorities = vec![vec![condition(2, Test::AtLeast(1 << 31))]];
    if around == Around::Nothing {
        for call in DENIED_OUTSIDE {
            set(*call, Answer::Deny);
        }
        let another = condition(0, Test::IsNot(0));
        set(libc::SYS_prlimit64, Answer::DenyIf(vec![vec![another]]));
        // Of one process only, and only one's own: by user they would be everybody's.
        priorities.push(vec![condition(1, Test::IsNot(0))]);
        priorities.push(vec![condition(0, Test::IsNot(libc::PRIO_PROCESS))]);
    }
    set(libc::SYS_setpriority, Answer::DenyIf(priorities));
    answers
}

/// The same for every number: calls that are newer than the list do not exist, and x32 calls end the process.
fn ranges(answers: &Answers) -> Ranges {
    let mut ranges = vec![(0, Answer::Allow)];
    let mut from = |number: u32, answer: &Answer| match ranges.last_mut() {
        Some((_, last)) if last == answer => {}
        Some((at, last)) if *at == number => *last = answer.clone(),
        _ => ranges.push((number, answer.clone())),
    };
    for (number, answer) in answers {
        from(*number, answer);
        from(number + 1, answers.get(&(number + 1)).unwrap_or(&Answer::Allow));
    }
    from(LAST_KNOWN + 1, &Answer::Absent);
    from(X32_BIT, &Answer::Kill);
    ranges
}

fn condition(argument: u8, test: Test) -> Condition {
    Condition {
        argument,
        mask: u32::MAX,
        test,
    }
}

fn all_but(argument: u8, values: &[u32]) -> Rule {
    let unlike = |value: &u32| condition(argument, Test::IsNot(*value));
    values.iter().map(unlike).collect()
}

/// Only local, IPv4 and IPv6 with their usual protocols, and the routing part of netlink (which resolvers ask for
/// addresses).
fn socket_rules() -> Vec<Rule> {
    let family = |family: libc::c_int| condition(0, Test::Is(family as u32));
    let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let unusual = condition(2, Test::IsNot(libc::NETLINK_ROUTE as u32));
    let mut rules = vec![all_but(0, &known.map(|f| f as u32))];
    rules.push(vec![family(libc::AF_NETLINK), unusual]);
    for internet in [libc::AF_INET, libc::AF_INET6] {
        let mut rare = vec![family(internet)];
        rare.extend(all_but(2, &PROTOCOLS));
        rules.push(rare);
    }
    rules
}

/// A pair of datagram sockets is none: either may send to whatever address it likes, a socket in the file system
/// included. By its kind, a raw one is the same.
fn pair_rules() -> Vec<Rule> {
    let mut rules = socket_rules();
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
        rules.push(vec![Condition {
            argument: 1,
            mask: KIND,
            test: Test::Is(kind as u32),
        }]);
    }
    rules
}

#[cfg(test)]
mod tests;
