//! The system call filters of sandboxes.
//!
//! A deny list over everything that reaches past the namespaces or has been a way out of them before. Other
//! architectures' calls and x32 end the process: their numbers would slip past the list.

use libc::sock_filter;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule,
};

type Rules = std::collections::BTreeMap<i64, Vec<Rule>>;

/// Why no filter could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot compile the seccomp filter")]
pub(crate) struct FilterError(#[from] seccompiler::BackendError);

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
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
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
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];
/// Protocols of IPv4 and IPv6: the usual one, TCP, UDP.
const PROTOCOLS: [u64; 3] = [0, 6, 17];
/// Flags of clone(2) that make namespaces.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];
/// The kind of a socket, without its flags.
const KIND: u64 = 0xf;

/// What else keeps a job in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// Namespaces: there are none of the host's objects to name.
    Namespaces,
    /// Nothing: there must be no way to name them.
    Nothing,
}

const TIOCLINUX: u64 = 0x541C;
const TIOCSETD: u64 = 0x5423;
const X32_BIT: u32 = 0x4000_0000;

/// Compiles a filter.
pub(crate) fn filter(around: Around) -> Result<Vec<sock_filter>, FilterError> {
    let denied = DENIED.iter().chain(DENIED_HERE);
    let mut rules: Rules = denied.map(|call| (*call, Vec::new())).collect();
    // Terminal input faked into whoever shares the terminal. The kernel looks at 32 bits of the number only, and so
    // does the comparison: `TIOCSTI + 2^32` is the same request. And line disciplines: setting one loads its module.
    let ioctls = [libc::TIOCSTI, TIOCLINUX, TIOCSETD].map(|request| Rule::new(vec![equal(1, request)?]));
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_clone, clone_rules()?);
    // Whoever may not has no way to, but in a kernel that takes it lightly.
    let before_others = Condition::new(2, Len::Dword, Op::Ge, 1 << 31)?;
    rules.insert(libc::SYS_setpriority, vec![Rule::new(vec![before_others])?]);
    rules.insert(libc::SYS_socket, socket_rules()?);
    rules.insert(libc::SYS_socketpair, socket_rules()?);
    let unusual = Rule::new(all_but(0, &PERSONALITIES)?)?;
    rules.insert(libc::SYS_personality, vec![unusual]);
    if around == Around::Nothing {
        rules.extend(DENIED_OUTSIDE.iter().map(|call| (*call, Vec::new())));
        rules.insert(libc::SYS_socketpair, pair_rules()?);
        let another = || Condition::new(0, Len::Dword, Op::Ne, 0);
        rules.insert(libc::SYS_prlimit64, vec![Rule::new(vec![another()?])?]);
        // Of one process only, and only one's own: by user they would be everybody's.
        let of_another = Condition::new(1, Len::Dword, Op::Ne, 0)?;
        let not_of_a_process = Condition::new(0, Len::Dword, Op::Ne, libc::PRIO_PROCESS as u64)?;
        let priorities = vec![Rule::new(vec![of_another])?, Rule::new(vec![not_of_a_process])?];
        rules.entry(libc::SYS_setpriority).or_default().extend(priorities);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    let deny = SeccompAction::Errno(libc::EPERM as u32);
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, deny, arch)?.try_into()?;
    let mut filter = prelude();
    filter.extend(program.into_iter().map(|i| sock_filter {
        code: i.code,
        jt: i.jt,
        jf: i.jf,
        k: i.k,
    }));
    Ok(filter)
}

fn clone_rules() -> Result<Vec<Rule>, seccompiler::BackendError> {
    let rule = |flag: &libc::c_int| {
        let flag = *flag as u64;
        Rule::new(vec![Condition::new(0, Len::Qword, Op::MaskedEq(flag), flag)?])
    };
    NAMESPACES.iter().map(rule).collect()
}

fn equal(argument: u8, value: u64) -> Result<Condition, seccompiler::BackendError> {
    Condition::new(argument, Len::Dword, Op::Eq, value)
}

fn all_but(argument: u8, values: &[u64]) -> Result<Vec<Condition>, seccompiler::BackendError> {
    let unlike = |value: &u64| Condition::new(argument, Len::Dword, Op::Ne, *value);
    values.iter().map(unlike).collect()
}

/// Only local, IPv4 and IPv6 with their usual protocols, and the routing part of netlink (which resolvers ask for
/// addresses).
fn socket_rules() -> Result<Vec<Rule>, seccompiler::BackendError> {
    let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let mut rules = vec![Rule::new(all_but(0, &known.map(|f| f as u64))?)?];
    rules.push(Rule::new(vec![
        equal(0, libc::AF_NETLINK as u64)?,
        Condition::new(2, Len::Dword, Op::Ne, libc::NETLINK_ROUTE as u64)?,
    ])?);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut rare = all_but(2, &PROTOCOLS)?;
        rare.push(equal(0, family as u64)?);
        rules.push(Rule::new(rare)?);
    }
    Ok(rules)
}

/// A pair of datagram sockets is none: either may send to whatever address it likes, a socket in the file system
/// included. By its kind, a raw one is the same.
fn pair_rules() -> Result<Vec<Rule>, seccompiler::BackendError> {
    let mut rules = socket_rules()?;
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
        let of_kind = Condition::new(1, Len::Dword, Op::MaskedEq(KIND), kind as u64)?;
        rules.push(Rule::new(vec![of_kind])?);
    }
    Ok(rules)
}

/// Before the list: x32 calls end the process; calls that are newer than the list do not exist, and neither does
/// `clone3`, whose flags a filter cannot see, so that libraries fall back to `clone`, whose flags it can.
fn prelude() -> Vec<sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    vec![
        instruction(LOAD, 0, 0, 0),
        instruction(AT_LEAST, 0, 1, X32_BIT),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(AT_LEAST, 0, 1, LAST_KNOWN + 1),
        instruction(RETURN, 0, 0, absent),
        instruction(EQUAL, 0, 1, libc::SYS_clone3 as u32),
        instruction(RETURN, 0, 0, absent),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn filter_compiles_and_fits_the_kernel() {
        for around in [super::Around::Namespaces, super::Around::Nothing] {
            let filter = super::filter(around).expect("constant rules");
            assert!(filter.len() > super::DENIED.len() && filter.len() < 4096);
        }
    }
}
