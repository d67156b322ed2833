//! Why a backend lacks what it lacks on every host.

use lictor_trust::profiles::Backend;

use super::Capability as C;

const NO_CONTROLLER: &str = "the agent has no cgroup in which that controller works";

/// What a probe says of something that it had no reason to look for.
pub(super) fn by_nature(backend: Backend, capability: C) -> &'static str {
    match (backend, capability) {
        (_, C::MemoryOfTree | C::CpuOfTree | C::IoOfTree) => NO_CONTROLLER,
        (_, C::Pids) => NO_CONTROLLER,
        (_, C::Cgroup) => "the agent can make no cgroup of version 2",
        (_, C::MemoryOfProcess) => "memory is limited for the whole tree in its place",
        (Backend::Host, C::Disk) => "it shows the host as it is",
        (_, C::Disk) => "the agent cannot mount one that counts as the job's memory",
        (_, C::RunAsUser) => "the agent is not root",
        (_, C::Prepared) => "its sandboxes are made when there is a job",
        (Backend::Host, C::NoNewPrivileges) => "a job of the agent's own user is as the agent is",
        (Backend::Host, _) => "it shows the host as it is",
        (Backend::Landlock, _) => of_landlock(capability),
        (_, C::HostNetwork) => "its network is its own",
        (_, C::EgressProxy) => "the agent has no egress proxy",
        (_, C::OwnKernel) => "it shares the host's kernel",
        (_, C::WritableRoot) => "only bubblewrap shows one",
        (_, C::Landlock | C::SignalScope | C::NoSockets) => "its namespaces hold that",
        (_, C::NotForHostileCode) => "it is made to hold such code",
        (Backend::Gvisor, C::Terminal) => {
            "terminals of its kernel stop no reader in the background and tell of no hang-up, and it gives jobs none of the host's"
        }
        (Backend::Gvisor, C::Devices) => "its kernel has none of the host's",
        _ => "it was not found to work here",
    }
}

fn of_landlock(capability: C) -> &'static str {
    match capability {
        C::HostNetwork | C::EgressProxy => "it leaves a job no socket that leads anywhere",
        C::HiddenPaths | C::ProtectedPaths | C::HiddenAgent => "its rights only add up",
        C::OwnKernel => "it shares the host's kernel",
        C::OwnRoot | C::WritableRoot | C::ReadOnlyRoot => "it shows the host's own tree",
        _ => "it has no namespaces",
    }
}
