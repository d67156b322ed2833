//! What a backend can enforce on this host: a closed list, filled by probing, never by assuming.
//!
//! The words go into plans, receipts and heartbeats, so they are as stable as codes.

mod fixes;
mod found;
mod reasons;

use std::fmt;

use lictor_trust::profiles::Backend;

pub use self::found::Capabilities;

/// One thing that a backend can hold while a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Every descendant is found and ended, double-forked ones and those in sessions of their own included.
    ProcessTree,
    /// A cgroup v2 of the job's own: the tree is killed in one step, CPU time is the kernel's own count.
    Cgroup,
    /// The environment is exactly what was declared, and no descriptor is inherited.
    CleanStart,
    /// Jobs can run as another user than the agent.
    RunAsUser,
    /// The host's network, as it is.
    HostNetwork,
    /// No network but an own loopback interface.
    NoNetwork,
    /// The same, and the egress proxy behind a port of that interface.
    EgressProxy,
    /// Users of its own: no id of the host but one unprivileged one.
    UserNamespace,
    /// A file system view of its own.
    MountNamespace,
    /// Processes of its own.
    PidNamespace,
    /// System V IPC and POSIX queues of its own.
    IpcNamespace,
    /// A host name of its own.
    UtsNamespace,
    /// A cgroup view of its own.
    CgroupNamespace,
    /// Nothing of the host can be written but what the profile names.
    ReadOnlyRoot,
    /// A root file system of the profile's own, by its digest, in place of the host's.
    OwnRoot,
    /// A copy of that for each job to write to, gone with it.
    WritableRoot,
    /// `no_new_privs`, an empty bounding set, no nested user namespace.
    NoNewPrivileges,
    /// A kernel of its own, in user space: none of the job's system calls reaches the host's.
    OwnKernel,
    /// A seccomp filter.
    Seccomp,
    /// The filter that leaves no sockets, no IPC objects and no say over other processes, for profiles that want it.
    StrictSeccomp,
    /// Devices of the host that the profile names, and no others but the usual ones.
    Devices,
    /// Landlock: files, directories and TCP ports that no rule names are out of reach.
    Landlock,
    /// No process outside can be signalled or traced.
    SignalScope,
    /// No socket at all but a pair of one's own, abstract ones and those in the file system included.
    NoSockets,
    /// Not something held but what is not: the kernel's whole surface and the host's names are in reach, so this
    /// keeps honest programs in, not hostile ones.
    NotForHostileCode,
    /// A session of its own; no terminal but one made for the job.
    NewSession,
    /// A memory limit over the whole tree.
    MemoryOfTree,
    /// A memory limit on each process (address space).
    MemoryOfProcess,
    /// A limit on the number of processes.
    Pids,
    /// A limit on the processors that the whole tree has.
    CpuOfTree,
    /// A limit on what the whole tree reads from and writes to each disk.
    IoOfTree,
    /// A CPU time limit on each process.
    CpuTime,
    /// A limit on the size of files written.
    FileSize,
    /// A limit on open files.
    OpenFiles,
    /// A limit on what the job has in its own places.
    Disk,
    /// Parts of what is shown that are hidden.
    HiddenPaths,
    /// Parts of what is shown writable that stay as they are.
    ProtectedPaths,
    /// The agent's own directory stays out of sight in a path that is shown and leads to it.
    HiddenAgent,
    /// A terminal of the job's own.
    Terminal,
    /// The whole job stands still until it is told to go on.
    Suspend,
    /// What a job leaves where it works is kept for the next one that names it.
    KeptSandbox,
    /// Sandboxes that are made before there is a job for them.
    Prepared,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Self; 42] = [
        Self::ProcessTree,
        Self::Cgroup,
        Self::CleanStart,
        Self::RunAsUser,
        Self::HostNetwork,
        Self::NoNetwork,
        Self::EgressProxy,
        Self::UserNamespace,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::ReadOnlyRoot,
        Self::OwnRoot,
        Self::WritableRoot,
        Self::NoNewPrivileges,
        Self::OwnKernel,
        Self::Seccomp,
        Self::StrictSeccomp,
        Self::Devices,
        Self::Landlock,
        Self::SignalScope,
        Self::NoSockets,
        Self::NotForHostileCode,
        Self::NewSession,
        Self::MemoryOfTree,
        Self::MemoryOfProcess,
        Self::Pids,
        Self::CpuOfTree,
        Self::IoOfTree,
        Self::CpuTime,
        Self::FileSize,
        Self::OpenFiles,
        Self::Disk,
        Self::HiddenPaths,
        Self::ProtectedPaths,
        Self::HiddenAgent,
        Self::Terminal,
        Self::Suspend,
        Self::KeptSandbox,
        Self::Prepared,
    ];

    /// What a backend promises whatever the profile says.
    #[must_use]
    pub fn promised_by(backend: Backend) -> &'static [Self] {
        match backend {
            Backend::Host => &[],
            Backend::Landlock => &Self::OF_LANDLOCK,
            Backend::Bubblewrap | Backend::Container => &Self::OF_NAMESPACES,
            Backend::Gvisor => &Self::OF_GVISOR,
        }
    }

    /// What to do where a profile wants it of a backend that lacks it.
    #[must_use]
    pub const fn fix(self, backend: Backend) -> &'static str {
        fixes::of(self, backend)
    }

    /// What every namespaced backend holds.
    pub(crate) const OF_NAMESPACES: [Self; 9] = [
        Self::UserNamespace,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::ReadOnlyRoot,
        Self::NoNewPrivileges,
        Self::Seccomp,
    ];

    /// What the gVisor backend holds.
    pub(crate) const OF_GVISOR: [Self; 10] = [
        Self::OwnKernel,
        Self::UserNamespace,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::ReadOnlyRoot,
        Self::NoNewPrivileges,
        Self::Seccomp,
    ];

    /// What the Landlock backend holds.
    pub(crate) const OF_LANDLOCK: [Self; 6] = [
        Self::Landlock,
        Self::SignalScope,
        Self::NoSockets,
        Self::NoNewPrivileges,
        Self::Seccomp,
        Self::NotForHostileCode,
    ];

    /// The one that a word means.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == word)
    }

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProcessTree => "process_tree",
            Self::Cgroup => "cgroup",
            Self::CleanStart => "clean_start",
            Self::RunAsUser => "run_as_user",
            Self::HostNetwork => "host_network",
            Self::NoNetwork => "no_network",
            Self::EgressProxy => "egress_proxy",
            Self::UserNamespace => "user_namespace",
            Self::MountNamespace => "mount_namespace",
            Self::PidNamespace => "pid_namespace",
            Self::IpcNamespace => "ipc_namespace",
            Self::UtsNamespace => "uts_namespace",
            Self::CgroupNamespace => "cgroup_namespace",
            Self::ReadOnlyRoot => "read_only_root",
            Self::OwnRoot => "own_root",
            Self::WritableRoot => "writable_root",
            Self::NoNewPrivileges => "no_new_privileges",
            Self::OwnKernel => "own_kernel",
            Self::Seccomp => "seccomp",
            Self::StrictSeccomp => "strict_seccomp",
            Self::Devices => "devices",
            Self::Landlock => "landlock",
            Self::SignalScope => "signal_scope",
            Self::NoSockets => "no_sockets",
            Self::NotForHostileCode => "not_for_hostile_code",
            Self::NewSession => "new_session",
            Self::MemoryOfTree => "memory_of_tree",
            Self::MemoryOfProcess => "memory_of_process",
            Self::Pids => "pids",
            Self::CpuOfTree => "cpu_of_tree",
            Self::IoOfTree => "io_of_tree",
            Self::CpuTime => "cpu_time",
            Self::FileSize => "file_size",
            Self::OpenFiles => "open_files",
            Self::Disk => "disk",
            Self::HiddenPaths => "hidden_paths",
            Self::ProtectedPaths => "protected_paths",
            Self::HiddenAgent => "hidden_agent",
            Self::Terminal => "terminal",
            Self::Suspend => "suspend",
            Self::KeptSandbox => "kept_sandbox",
            Self::Prepared => "prepared",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
