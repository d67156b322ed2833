//! What the probes of all backends have in common: limits of whole jobs, disks, terminals, the way out.

use std::fs;

use lictor_trust::profiles::Backend;

use super::cgroup::Controller;
use super::kernel::Kernel;
use super::{overlay, quota, terminal};
use crate::capability::{Capabilities, Capability as C};

/// What every backend has wherever it works.
const ALWAYS: [C; 8] = [
    C::ProcessTree,
    C::CleanStart,
    C::NewSession,
    C::CpuTime,
    C::FileSize,
    C::OpenFiles,
    C::Suspend,
    C::KeptSandbox,
];

/// What a backend says of itself, with what was found out without it.
pub(super) fn begin(kernel: &Kernel, backend: Backend, own: &[C]) -> Capabilities {
    let claimed = ALWAYS.iter().chain(own).copied();
    let mut found: Capabilities = claimed.collect();
    for capability in kernel.limits() {
        found = match capability {
            // A limit of each process, which no kernel is without.
            C::MemoryOfProcess => found.and(capability),
            // Set in a cgroup and read from it again at the agent's start.
            _ => found.with(capability, Ok(())),
        };
    }
    if backend != Backend::Gvisor {
        found = found.with(C::Terminal, terminal::works().map_err(|e| e.to_string()));
    }
    if kernel.isolated_filter.is_ok() && backend.is_unprivileged() {
        found = found.and(C::StrictSeccomp);
    }
    match kernel.own() {
        Ok(own) => found.of_agent_in(&own),
        Err(e) => found.lacking(
            C::HiddenAgent,
            format!("what is mounted here cannot be told: {e}"),
        ),
    }
}

/// What a root agent can do besides.
pub(super) fn with_rights(found: Capabilities, of: &[C]) -> Capabilities {
    match rustix::process::geteuid().is_root() {
        true => of.iter().fold(found, |found, c| found.and(*c)),
        false => of
            .iter()
            .fold(found, |found, c| found.lacking(*c, "the agent is not root")),
    }
}

/// A disk of the job's own, which counts as its memory.
pub(super) fn with_disk(found: Capabilities) -> Capabilities {
    let works = match found.has(C::MemoryOfTree) {
        true => quota::works().map_err(|e| format!("none can be mounted: {e}")),
        false => Err("it is memory, and that of a whole job is not limited here".to_owned()),
    };
    found.with(C::Disk, works)
}

/// A root to write to, made once.
pub(super) fn with_writable_root(found: Capabilities, kernel: &Kernel) -> Capabilities {
    let works = match rustix::process::geteuid().is_root() {
        true => overlay::works(&kernel.id_maps, &kernel.sandbox_user())
            .map_err(|e| format!("none can be mounted: {e}")),
        false => Err("the agent is not root".to_owned()),
    };
    found.with(C::WritableRoot, works)
}

/// A limit on processes without a controller, in a user namespace of the job's own.
pub(super) fn with_pids(found: Capabilities, kernel: &Kernel) -> Capabilities {
    if kernel.cgroups.holds(Controller::Pids) {
        return found;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match counts_by_namespace(&release) {
        true => found.and(C::Pids),
        false => found.lacking(
            C::Pids,
            "no cgroup counts them, and before Linux 5.14 the kernel counts those of a user on the whole host",
        ),
    }
}

/// Whether `RLIMIT_NPROC` counts in each user namespace by itself: since Linux 5.14.
fn counts_by_namespace(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    (next(), next()) >= (Some(5), Some(14))
}

/// The only way out, tried once.
pub(super) async fn with_egress(found: Capabilities, kernel: &Kernel) -> Capabilities {
    let Some(proxy) = &kernel.proxy else {
        return found;
    };
    let works = proxy.probe(kernel).await;
    if let Err(error) = &works {
        tracing::warn!(%error, "the egress proxy does not work here");
    }
    found.with(C::EgressProxy, works.map_err(|e| e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_count_processes_by_namespace_are_told_by_their_release() {
        for release in ["5.14.0", "6.1.0-18-amd64", "5.15.0-generic", "10.0"] {
            assert!(counts_by_namespace(release), "{release}");
        }
        for release in ["5.13.19", "5.4.0-150-generic", "4.19.0", ""] {
            assert!(!counts_by_namespace(release), "{release}");
        }
    }
}
