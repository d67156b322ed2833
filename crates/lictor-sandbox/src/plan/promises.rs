//! What a profile promises, as the capabilities that have to be in force for it.
//!
//! # Invariants
//! - What is promised by default is required as what is named: it is never left out where a backend lacks it.
//! - Everything that is missing is told at once, with what to do about each.

use std::path::Path;

use lictor_trust::profiles::{Backend, Limits, Network, Profile, Seccomp};

use super::egress_of;
use super::unenforceable::{Lack, Unenforceable};
use crate::capability::{Capabilities, Capability};
use crate::imp;

/// What a job is promised by its profile, for one backend.
pub(super) struct Promises<'a> {
    pub(super) backend: Backend,
    pub(super) network: Network,
    /// Whether there are rules for a way out.
    pub(super) has_rules: bool,
    /// Whether its root is not the host's.
    pub(super) own_root: bool,
    /// Whether it may write to that.
    pub(super) writes_root: bool,
    /// What is shown read-only, and writable.
    pub(super) shown: (&'a [String], &'a [String]),
    pub(super) hides: bool,
    pub(super) protects: bool,
    pub(super) shows_devices: bool,
    pub(super) seccomp: Seccomp,
    pub(super) changes_user: bool,
    /// Whether the job has chosen its user: that is never somebody else's by default.
    pub(super) chosen_user: bool,
    pub(super) is_root: bool,
    pub(super) limits: &'a Limits,
}

impl Promises<'_> {
    /// What must be in force, or what stands in the way.
    pub(super) fn required(&self, capabilities: &Capabilities) -> Result<Vec<Capability>, Unenforceable> {
        self.check()?;
        let mut needed = vec![
            Capability::ProcessTree,
            Capability::CleanStart,
            Capability::NewSession,
        ];
        needed.extend(Capability::promised_by(self.backend));
        needed.extend(self.of_views());
        needed.extend(self.of_users());
        needed.extend(self.of_limits(capabilities));
        let mut lacks: Vec<Lack> = needed
            .iter()
            .filter(|c| !capabilities.has(**c))
            .map(|c| Lack::new(*c, capabilities))
            .collect();
        match agent_in_sight(self.backend, self.shown, self.own_root, capabilities) {
            InSight::Covered => needed.push(Capability::HiddenAgent),
            InSight::Seen(lack) => lacks.push(lack),
            InSight::No => {}
        }
        if !lacks.is_empty() {
            let backend = self.backend;
            return Err(Unenforceable::Missing { backend, lacks });
        }
        needed.extend(capabilities.has(Capability::Cgroup).then_some(Capability::Cgroup));
        Ok(needed)
    }

    /// What no capability would help with.
    fn check(&self) -> Result<(), Unenforceable> {
        if self.backend.is_unprivileged() && self.is_root {
            return Err(Unenforceable::Root);
        }
        if self.network == Network::Egress && !self.has_rules {
            return Err(Unenforceable::Rules);
        }
        if self.backend.is_namespaced() && self.limits.pids.is_some_and(|n| n < 2) {
            return Err(Unenforceable::TooFewPids);
        }
        // Without mounts, what may be done to a path may be done to all below it.
        let (read_only, read_write) = self.shown;
        let within = |path: &&String| read_write.iter().any(|w| Path::new(path).starts_with(w));
        match read_only.iter().find(within) {
            Some(path) if !self.backend.is_namespaced() => Err(Unenforceable::ReadOnlyWithin {
                backend: self.backend,
                path: path.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Of the network, files and the kernel.
    fn of_views(&self) -> impl Iterator<Item = Capability> {
        use Capability as C;
        let (read_only, read_write) = self.shown;
        let network = match self.network {
            Network::Host => C::HostNetwork,
            Network::None => C::NoNetwork,
            Network::Egress => C::EgressProxy,
        };
        // A list of paths says what can be reached, which nothing holds back on the host as it is.
        let shows = !read_only.is_empty() || !read_write.is_empty();
        let lists = shows && !self.backend.is_unprivileged();
        let views = [
            (true, network),
            (lists, C::MountNamespace),
            (self.own_root, C::OwnRoot),
            (self.writes_root, C::WritableRoot),
            (self.hides, C::HiddenPaths),
            (self.protects, C::ProtectedPaths),
            (self.shows_devices, C::Devices),
            (self.seccomp == Seccomp::Strict, C::StrictSeccomp),
        ];
        views.into_iter().filter(|(wanted, _)| *wanted).map(|(_, c)| c)
    }

    /// Of who it is, where nothing isolates that by itself.
    fn of_users(&self) -> impl Iterator<Item = Capability> {
        let changes = self.changes_user && (self.chosen_user || !self.backend.is_namespaced());
        let drops = changes && !self.is_root && !self.backend.is_namespaced();
        let user = changes.then_some(Capability::RunAsUser).into_iter();
        user.chain(drops.then_some(Capability::NoNewPrivileges))
    }

    fn of_limits(&self, capabilities: &Capabilities) -> impl Iterator<Item = Capability> {
        use Capability as C;
        let limits = self.limits;
        let memory = match capabilities.has(C::MemoryOfTree) {
            true => C::MemoryOfTree,
            false => C::MemoryOfProcess,
        };
        let rate = limits.read_bytes_per_s.or(limits.write_bytes_per_s);
        let all = [
            limits.memory.map(|_| memory),
            limits.pids.map(|_| C::Pids),
            limits.cpu_millis.map(|_| C::CpuOfTree),
            rate.map(|_| C::IoOfTree),
            limits.cpu_seconds.map(|_| C::CpuTime),
            limits.file_size.map(|_| C::FileSize),
            limits.disk.map(|_| C::Disk),
            limits.open_files.map(|_| C::OpenFiles),
        ];
        all.into_iter().flatten()
    }
}

/// Whether a job would see what is the agent's own.
enum InSight {
    No,
    /// It would, and something can be put over it.
    Covered,
    Seen(Lack),
}

/// Looks where the paths lead that are shown. Who shows the host as it is hides nothing.
fn agent_in_sight(
    backend: Backend,
    (read_only, read_write): (&[String], &[String]),
    own_root: bool,
    capabilities: &Capabilities,
) -> InSight {
    let own = capabilities.agent();
    if !backend.is_unprivileged() {
        return InSight::No;
    }
    let seen = |why| {
        let capability = Capability::HiddenAgent;
        let why = Some(why);
        InSight::Seen(Lack { capability, why })
    };
    let always = imp::always_leads_to_agent(backend, own);
    if let Some(path) = always.filter(|_| !own_root) {
        return seen(format!(
            "{path} is shown to every job and leads to the agent's own directory, so that has to lie elsewhere"
        ));
    }
    let named = read_only.iter().chain(read_write).map(String::as_str);
    match imp::leads_to_agent(named, own) {
        None => InSight::No,
        Some(_) if capabilities.has(Capability::HiddenAgent) => InSight::Covered,
        Some(path) => seen(format!("{path} is shown and leads to the agent's own directory")),
    }
}

/// Whether no path that a profile shows leads to the agent's own directory where nothing can be put over that.
///
/// # Errors
/// Which one does.
#[cfg_attr(not(target_os = "linux"), expect(dead_code))]
pub(crate) fn keeps_from_agent(
    profile: &Profile,
    backend: Backend,
    capabilities: &Capabilities,
) -> Result<(), Unenforceable> {
    let shown = (&profile.read_only[..], &profile.read_write[..]);
    match agent_in_sight(backend, shown, profile.rootfs.is_some(), capabilities) {
        InSight::Seen(lack) => {
            let lacks = vec![lack];
            Err(Unenforceable::Missing { backend, lacks })
        }
        InSight::No | InSight::Covered => Ok(()),
    }
}

/// Whether a backend with these capabilities can hold a profile, as far as that can be told before anything is known
/// about a job.
///
/// # Errors
/// What stands in the way.
pub fn can_hold(
    profile: &Profile,
    backend: Backend,
    capabilities: &Capabilities,
) -> Result<(), Unenforceable> {
    let promises = Promises {
        backend,
        network: profile.network,
        has_rules: egress_of(profile).is_some(),
        own_root: profile.rootfs.is_some(),
        writes_root: profile.rootfs_writable,
        shown: (&profile.read_only, &profile.read_write),
        hides: !profile.deny.is_empty(),
        protects: profile.protects(),
        shows_devices: !profile.devices.is_empty(),
        seccomp: profile.seccomp,
        changes_user: false,
        chosen_user: false,
        is_root: false,
        limits: &profile.limits,
    };
    promises.required(capabilities).map(|_| ())
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    const BACKENDS: [Backend; 5] = [
        Backend::Host,
        Backend::Landlock,
        Backend::Bubblewrap,
        Backend::Container,
        Backend::Gvisor,
    ];

    /// Asks for everything that a profile can ask for.
    fn greedy(backend: Backend) -> Profile {
        let text = serde_json::json!({
            "backend": backend.as_str(),
            "rootfs": lictor_proto::Digest::of(b"a tree"),
            "rootfs_writable": true,
            "read_only": ["/opt"],
            "read_write": ["/srv"],
            "devices": ["/dev/kvm"],
            "seccomp": "strict",
            "deny": ["x"],
            "limits": {
                "memory": "1GiB", "pids": 9, "cpu_millis": 500, "read_bytes_per_s": "1MiB", "cpu_seconds": 9,
                "file_size": "1MiB", "disk": "1MiB", "open_files": 9,
            },
        });
        serde_json::from_value(text).expect("a profile")
    }

    fn lacks(found: Result<(), Unenforceable>) -> Vec<Lack> {
        match found.expect_err("it has nothing") {
            Unenforceable::Missing { lacks, .. } => lacks,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn everything_that_is_missing_is_told_at_once_and_each_with_what_to_do() {
        for backend in BACKENDS {
            let profile = greedy(backend);
            assert_eq!(
                can_hold(&profile, backend, &Capability::ALL.into_iter().collect()),
                Ok(())
            );
            let refused = can_hold(&profile, backend, &Capabilities::default());
            let text = refused.as_ref().expect_err("it has nothing").to_string();
            let lacks = lacks(refused);
            assert!(lacks.len() > 12, "{lacks:?}");
            for lack in lacks {
                let (word, fix) = (lack.capability.as_str(), lack.capability.fix(backend));
                assert!(text.contains(word) && text.contains(fix), "{word}: {text}");
            }
        }
    }

    #[test]
    fn there_are_words_for_every_capability_of_every_backend() {
        for backend in BACKENDS {
            for capability in Capability::ALL {
                assert!(capability.fix(backend).len() > 20, "{capability} of {backend}");
            }
            let advice = Capability::Pids.fix(backend);
            let is_the_hosts = backend != Backend::Gvisor;
            assert_eq!(advice.contains("Delegate"), is_the_hosts, "{advice}");
        }
    }

    #[test]
    fn why_something_is_missing_is_told_where_it_is_known() {
        let mut profile = greedy(Backend::Bubblewrap);
        profile.seccomp = Seccomp::Default;
        profile.network = Network::Egress;
        profile.egress =
            Some(serde_json::from_value(serde_json::json!({ "mode": "open" })).expect("an egress section"));
        let all = Capability::ALL
            .into_iter()
            .filter(|c| *c != Capability::EgressProxy);
        let all: Capabilities = all.collect();
        let found = all.lacking(Capability::EgressProxy, "no such file");
        let refused = can_hold(&profile, Backend::Bubblewrap, &found).expect_err("it has no proxy");
        assert!(
            refused.to_string().contains("egress_proxy (no such file)"),
            "{refused}"
        );
    }

    #[test]
    fn what_is_protected_by_default_is_required_like_what_is_named() {
        let without = Capability::ALL
            .into_iter()
            .filter(|c| *c != Capability::ProtectedPaths);
        let without: Capabilities = without.collect();
        for backend in [
            Backend::Landlock,
            Backend::Bubblewrap,
            Backend::Container,
            Backend::Gvisor,
        ] {
            let mut profile = greedy(backend);
            for named in [None, Some(vec!["ci/".to_owned()])] {
                profile.protect = named;
                let refused = can_hold(&profile, backend, &without).expect_err("it protects nothing");
                assert!(refused.to_string().contains("protect = []"), "{refused}");
            }
            profile.protect = Some(Vec::new());
            assert_eq!(can_hold(&profile, backend, &without), Ok(()), "it says so itself");
            profile.protect = None;
            profile.read_write.clear();
            assert_eq!(
                can_hold(&profile, backend, &without),
                Ok(()),
                "there is nothing to protect"
            );
        }
    }

    #[test]
    fn what_leads_to_the_agents_directory_is_missing_like_anything_else_where_nothing_covers_it() {
        let own = [std::path::PathBuf::from("/nowhere/agent")];
        let without = Capability::ALL
            .into_iter()
            .filter(|c| *c != Capability::HiddenAgent);
        let without = without.collect::<Capabilities>().of_agent_in(&own);
        let all = Capability::ALL.into_iter().collect::<Capabilities>();
        let all = all.of_agent_in(&own);
        for backend in BACKENDS {
            let mut profile = greedy(backend);
            profile.read_only = vec!["/nowhere".to_owned()];
            let found = can_hold(&profile, backend, &without);
            assert_eq!(
                found.is_err(),
                backend != Backend::Host,
                "host hides nothing from anybody"
            );
            if let Err(refused) = found {
                let text = refused.to_string();
                assert!(
                    text.contains("hidden_agent (/nowhere is shown") && text.contains("show other paths"),
                    "{text}"
                );
            }
            assert_eq!(can_hold(&profile, backend, &all), Ok(()));
            profile.read_only = vec!["/opt".to_owned()];
            assert_eq!(can_hold(&profile, backend, &without), Ok(()));
            // What every sandbox shows is covered by none.
            let all = all.clone().of_agent_in(&["/usr/lib/agent".into()]);
            assert_eq!(can_hold(&profile, backend, &all), Ok(()), "its root is its own");
            profile.rootfs = None;
            profile.rootfs_writable = false;
            let found = can_hold(&profile, backend, &all);
            assert_eq!(found.is_err(), backend != Backend::Host, "{found:?}");
        }
    }

    #[test]
    fn one_process_is_too_few_where_a_start_takes_two() {
        let all: Capabilities = Capability::ALL.into_iter().collect();
        for backend in BACKENDS {
            let mut profile = greedy(backend);
            profile.limits.pids = Some(2);
            assert_eq!(can_hold(&profile, backend, &all), Ok(()));
            profile.limits.pids = Some(1);
            let found = can_hold(&profile, backend, &all);
            assert_eq!(found.is_err(), backend.is_namespaced(), "{backend}: {found:?}");
        }
    }
}
