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
];

/// What else keeps a job in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Around {
    /// Namespaces: there are none of the host's objects to name.
    Namespaces,
    /// Nothing: there must be no way to name them.
    Nothing,
}

const TIOCLINUX: u64 = 0x541C;
const X32_BIT: u32 = 0x4000_0000;

/// Compiles a filter.
pub(crate) fn filter(around: Around) -> Result<Vec<sock_filter>, FilterError> {
    let mut rules: Rules = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    // Terminal input faked into whoever shares the terminal. The kernel looks at 32 bits of the number only, and so
    // does the comparison: `TIOCSTI + 2^32` is the same request.
    let ioctls = [libc::TIOCSTI, TIOCLINUX].map(|request| Rule::new(vec![equal(1, request)?]));
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().collect::<Result<_, _>>()?);
    let user_namespace = libc::CLONE_NEWUSER as u64;
    let with_user_namespace = Condition::new(0, Len::Qword, Op::MaskedEq(user_namespace), user_namespace)?;
    rules.insert(libc::SYS_clone, vec![Rule::new(vec![with_user_namespace])?]);
    rules.insert(libc::SYS_socket, socket_rules()?);
    rules.insert(libc::SYS_socketpair, socket_rules()?);
    if around == Around::Nothing {
        rules.extend(DENIED_OUTSIDE.iter().map(|call| (*call, Vec::new())));
        let another = || Condition::new(0, Len::Dword, Op::Ne, 0);
        rules.insert(libc::SYS_prlimit64, vec![Rule::new(vec![another()?])?]);
        // Of one process only, and only one's own: by user they would be everybody's.
        let of_another = Condition::new(1, Len::Dword, Op::Ne, 0)?;
        let not_of_a_process = Condition::new(0, Len::Dword, Op::Ne, libc::PRIO_PROCESS as u64)?;
        let priorities = vec![Rule::new(vec![of_another])?, Rule::new(vec![not_of_a_process])?];
        rules.insert(libc::SYS_setpriority, priorities);
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

fn equal(argument: u8, value: u64) -> Result<Condition, seccompiler::BackendError> {
    Condition::new(argument, Len::Dword, Op::Eq, value)
}

/// Only local, IPv4, IPv6, and the routing part of netlink (which resolvers ask for addresses).
fn socket_rules() -> Result<Vec<Rule>, seccompiler::BackendError> {
    let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let unknown = known.map(|f| Condition::new(0, Len::Dword, Op::Ne, f as u64));
    let netlink = vec![
        equal(0, libc::AF_NETLINK as u64)?,
        Condition::new(2, Len::Dword, Op::Ne, libc::NETLINK_ROUTE as u64)?,
    ];
    Ok(vec![
        Rule::new(unknown.into_iter().collect::<Result<_, _>>()?)?,
        Rule::new(netlink)?,
    ])
}

/// Before the list: x32 calls end the process; `clone3`, whose flags a filter cannot see, does not exist, so that
/// libraries fall back to `clone`, whose flags it can.
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
