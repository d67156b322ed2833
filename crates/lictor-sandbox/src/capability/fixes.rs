//! What to do where a profile wants something of a backend that lacks it: a line for the profile, or what to type on the node.

use lictor_trust::profiles::Backend;

use super::Capability as C;

const NAME_BUBBLEWRAP: &str =
    "say backend = \"bubblewrap\" in the profile (on the node: apt install bubblewrap)";
const NAMESPACES: &str = "see that `unshare --user --map-root-user true` works on the node as the agent's user; where it does \
    not: sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1, and on Ubuntu also \
    kernel.apparmor_restrict_unprivileged_userns=0";
const FILTER: &str = "run the agent on x86-64 or arm64 with a kernel of CONFIG_SECCOMP_FILTER: `grep Seccomp /proc/self/status` \
    says whether this one has it";

/// See [`super::Capability::fix`].
pub(super) const fn of(capability: C, backend: Backend) -> &'static str {
    match capability {
        C::MemoryOfTree
        | C::MemoryOfProcess
        | C::Pids
        | C::CpuOfTree
        | C::IoOfTree
        | C::Cgroup
        | C::Disk
        | C::Suspend => of_limits(capability, backend),
        C::HiddenPaths
        | C::ProtectedPaths
        | C::HiddenAgent
        | C::OwnRoot
        | C::WritableRoot
        | C::MountNamespace
        | C::ReadOnlyRoot
        | C::Devices
        | C::KeptSandbox
        | C::Prepared => of_files(capability, backend),
        C::HostNetwork | C::NoNetwork | C::EgressProxy | C::NoSockets => of_network(capability, backend),
        _ => of_isolation(capability, backend),
    }
}

const fn of_limits(capability: C, backend: Backend) -> &'static str {
    match (capability, backend) {
        (C::Pids, Backend::Gvisor) => {
            "it takes a runsc that counts them: name a newer one in the agent's configuration (`[sandbox] runsc = \"PATH\"`), \
             or leave pids out of the profile's limits"
        }
        (C::MemoryOfProcess, _) => "nothing: what is limited is what all processes have together",
        (C::IoOfTree, _) => {
            "it takes the io controller of cgroup v2: `Delegate=yes` below [Service] of the agent's unit (systemctl edit UNIT, \
             then systemctl restart UNIT), on a host that is booted with cgroup_no_v1=all where version 1 has it as blkio"
        }
        (C::Disk, Backend::Host) => {
            "say backend = \"bubblewrap\" (or container, gvisor, landlock) in the profile, and run the agent as root, where the \
             cgroup controller memory works"
        }
        (C::Disk, _) => {
            "it is memory of the job: run the agent as root, with the cgroup controller memory (`lictor doctor` says whether \
             it has that), or leave disk out of the profile's limits"
        }
        (C::Suspend, _) => {
            "give the agent a cgroup with a freezer: `Delegate=yes` below [Service] of its unit (systemctl edit UNIT), or run it \
             as root"
        }
        _ => {
            "give the agent the cgroup controllers memory, pids and cpu: `Delegate=yes` below [Service] of its unit (systemctl \
             edit UNIT, then systemctl restart UNIT), or run it as root"
        }
    }
}

const fn of_files(capability: C, backend: Backend) -> &'static str {
    match capability {
        C::HiddenPaths => {
            "say backend = \"bubblewrap\" (or container, gvisor) in the profile; or leave deny out of it"
        }
        C::ProtectedPaths => {
            "say backend = \"bubblewrap\" (or container, gvisor) in the profile; or say protect = [], so that a job may write to \
             hooks and configuration of repositories too"
        }
        C::HiddenAgent => {
            "show other paths, or say backend = \"bubblewrap\" (or container, gvisor) in the profile; on the node, keep what is \
             the agent's own (`dir`, `runtime_dir`) out of /usr and /etc, by whatever name it is mounted there"
        }
        C::OwnRoot => {
            "say backend = \"bubblewrap\" (or container, gvisor) in the profile; or leave rootfs out of it"
        }
        C::WritableRoot => {
            "say backend = \"bubblewrap\" in the profile, run the agent as root, on Linux 6.15 or later; or leave \
             rootfs_writable out"
        }
        C::Devices => {
            "say backend = \"bubblewrap\" (or container, landlock) in the profile, or leave devices out of it"
        }
        C::MountNamespace | C::ReadOnlyRoot if backend.is_namespaced() => NAMESPACES,
        C::Prepared => {
            "say backend = \"bubblewrap\" in the profile: others make a sandbox when there is a job"
        }
        C::KeptSandbox => {
            "leave persist out of the profile; `lictor doctor` on the node says why nothing is kept there"
        }
        _ => NAME_BUBBLEWRAP,
    }
}

const fn of_network(capability: C, backend: Backend) -> &'static str {
    match capability {
        C::HostNetwork => "say backend = \"host\" in the profile: no other one has the host's network",
        C::EgressProxy if backend.is_namespaced() => {
            "the proxy takes the released `lictor`, and Linux 5.13 or later booted with landlock among the names of lsm= (cat \
             /sys/kernel/security/lsm); or leave network = \"egress\" out of the profile"
        }
        C::EgressProxy => {
            "say backend = \"bubblewrap\" (or container, gvisor) in the profile: these have a way out"
        }
        C::NoSockets => {
            "say backend = \"landlock\" in the profile, for an agent that is root on Linux 6.12 or later"
        }
        _ => NAME_BUBBLEWRAP,
    }
}

const fn of_isolation(capability: C, backend: Backend) -> &'static str {
    match capability {
        C::RunAsUser => "run the agent as root, or leave run_as out of the profile",
        C::NoNewPrivileges if matches!(backend, Backend::Host) => {
            "run the agent as root and name a user with run_as = \"NAME\"; or say backend = \"bubblewrap\" in the profile"
        }
        C::OwnKernel => {
            "say backend = \"gvisor\" in the profile (on the node: apt install runsc, and an agent that is root)"
        }
        C::Terminal if matches!(backend, Backend::Gvisor) => {
            "say backend = \"container\" or \"bubblewrap\" in the profile: runsc takes in no terminal of the host"
        }
        C::Terminal => {
            "see that `ls -l /dev/ptmx /dev/pts/ptmx` on the node shows both, and that the agent's user may open them"
        }
        C::Landlock | C::SignalScope | C::NotForHostileCode => {
            "say backend = \"landlock\" in the profile, for an agent that is root on Linux 6.12 or later, booted with landlock among \
             the names of lsm= (cat /sys/kernel/security/lsm)"
        }
        C::Seccomp | C::StrictSeccomp if backend.is_unprivileged() => FILTER,
        C::ProcessTree | C::CleanStart | C::NewSession | C::CpuTime | C::FileSize | C::OpenFiles => {
            "every backend has it wherever it works: `lictor doctor` on the node says what keeps this one from working, and what \
             to type for it"
        }
        C::UserNamespace | C::PidNamespace | C::IpcNamespace | C::UtsNamespace | C::CgroupNamespace
            if backend.is_namespaced() =>
        {
            NAMESPACES
        }
        _ => NAME_BUBBLEWRAP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_what_to_write_or_to_type_and_none_only_names_another_backend() {
        for backend in [
            Backend::Host,
            Backend::Landlock,
            Backend::Bubblewrap,
            Backend::Container,
            Backend::Gvisor,
        ] {
            for capability in C::ALL {
                let fix = of(capability, backend);
                let words = [
                    " = \"",
                    "= []",
                    "`",
                    "run the agent as root",
                    "leave ",
                    "nothing: ",
                ];
                assert!(
                    words.iter().any(|w| fix.contains(w)),
                    "{capability} of {backend}: {fix}"
                );
                // Whoever has it named already is not told to name it.
                let itself = format!("say backend = \"{backend}\"");
                assert!(
                    !fix.contains(&itself) || may_say_itself(capability, backend),
                    "{capability}: {fix}"
                );
            }
        }
    }

    /// What names a backend together with what the node needs for it.
    fn may_say_itself(capability: C, backend: Backend) -> bool {
        match backend {
            Backend::Host => capability == C::HostNetwork,
            Backend::Landlock => matches!(
                capability,
                C::Landlock | C::SignalScope | C::NoSockets | C::NotForHostileCode
            ),
            Backend::Gvisor => capability == C::OwnKernel,
            Backend::Container => false,
            // Which has all of these wherever it works: what is said is how to get it.
            Backend::Bubblewrap => true,
        }
    }
}
