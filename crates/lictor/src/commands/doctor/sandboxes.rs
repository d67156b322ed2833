//! What this host can do for jobs: what backends rest on, the backends, and which of them would take each profile.
//!
//! # Invariants
//! - What a backend can do is found out by its own probe, and whether it holds a profile by the plan's own rules
//!   ([`can_hold`]): there is no second opinion here.
//! - Where an agent runs, its own word counts: it has a cgroup, a user and settings of its own. Else the answer is of where
//!   this command runs.

use std::collections::BTreeMap;

use lictor_agent::config::Rootfs;
use lictor_proto::Name;
use lictor_rootfs::Store;
use lictor_sandbox::{Capabilities, Capability, Host, ProbeError, can_hold};
use lictor_trust::profiles::{Backend, Profile, Profiles, RunAs};
use lictor_warden::Presence;

use super::node::Node;
use super::{Finding, Level};
use crate::commands::rootfs::ready;

/// Everything about running jobs here. What is missing is no fault: it may be there for the agent, which has a cgroup and
/// a configuration of its own, or nobody may want it. Only a profile that no host can hold is wrong.
pub(super) async fn look(node: &Node, law: Option<&Profiles>) -> Vec<Finding> {
    let config = lictor_sandbox::Config {
        node_dir: node.dir.clone(),
        ..node.config.clone()
    };
    let host = match Host::start(config) {
        Ok(host) => host,
        Err(e) => {
            let fix = "Run it where processes may be started.";
            return vec![Finding::bad("sandboxes", e.to_string(), fix)];
        }
    };
    let mut findings = node.findings();
    let checks = host.checks().await.into_iter();
    // Of the cgroup that this command is in nobody wants to know where there is an agent in its own.
    let checks = checks.filter(|check| node.agent.is_none() || !check.what.starts_with("cgroup"));
    findings.extend(checks.map(|check| of_probe(check.what.to_owned(), check.found)));
    let own = host.own_paths().unwrap_or_default();
    let mut probed = BTreeMap::new();
    for backend in host.backends() {
        let reported = node
            .agent
            .as_ref()
            .and_then(|agent| reported(agent, backend.name()));
        let found = match reported {
            Some(found) => found,
            None => backend.probe().await,
        };
        let found = found.map(|capabilities| capabilities.of_agent_in(&own));
        let says = found.as_ref().map(|found| words(backend.name(), found));
        findings.push(of_probe(
            format!("sandbox {}", backend.name()),
            says.map_err(Clone::clone),
        ));
        probed.insert(backend.name(), found);
    }
    let profiles = law.into_iter().flat_map(|law| &law.profiles);
    let store = node.dir.as_deref().map(Store::of_node);
    for (name, profile) in profiles {
        findings.push(of_profile(name, profile, &probed));
        findings.extend(of_rootfs(name, profile, store.as_ref(), &node.rootfs));
    }
    findings
}

/// What a backend holds, who makes its containers, and whether jobs can have terminals, which profiles do not ask for.
fn words(backend: Backend, found: &Capabilities) -> String {
    let mut words = found.words().join(", ");
    if let Some(engine) = found.engine() {
        words = format!("by {engine}: {words}");
    }
    match found.has(Capability::Terminal) {
        true => words,
        false => format!("{words}; no terminal: {}", Capability::Terminal.fix(backend)),
    }
}

/// What a running agent has found itself.
fn reported(agent: &Presence, backend: Backend) -> Option<Result<Capabilities, ProbeError>> {
    let report = agent.backends.iter().find(|r| r.name == backend.as_str())?;
    let words = report.capabilities.iter();
    let found: Capabilities = words.filter_map(|w| Capability::of_word(w)).collect();
    Some(match report.usable {
        true => Ok(found.made_by(report.engine.as_deref())),
        false => Err(ProbeError {
            problem: report.problem.clone(),
            fix: "mend that, and start the agent again".to_owned(),
        }),
    })
}

/// Whether the node has the root file system that a profile names, or fetches it.
fn of_rootfs(name: &Name, profile: &Profile, store: Option<&Store>, settings: &Rootfs) -> Option<Finding> {
    let (digest, store) = (profile.rootfs.as_ref()?, store?);
    let what = format!("rootfs of profile {name}");
    let add = format!("lictor agent rootfs add FILE --expect {digest} --dir DIR, on this machine");
    Some(match store.list() {
        Ok(all) if all.iter().any(|kept| kept.meta.digest == *digest) => {
            Finding::good(what, "is in the store")
        }
        Ok(_) if let Some((image, _)) = profile.pulled() => {
            let says = format!("{digest} is not in the store of this node yet");
            match ready(settings, image) {
                Ok(_) => Finding::good(what, format!("{says}: its first job has it fetched from {image}")),
                Err(fix) => {
                    let says = format!("{says}, and cannot be fetched from {image}");
                    Finding::new(what, Level::Lacks, says, fix)
                }
            }
        }
        Ok(_) => Finding::new(
            what,
            Level::Lacks,
            format!("{digest} is not in the store of this node"),
            add,
        ),
        Err(e) => Finding::new(
            what,
            Level::Lacks,
            format!("the store cannot be read: {e}"),
            "Run it as the agent's user.",
        ),
    })
}

/// What every backend's probe has found.
type Probed = BTreeMap<Backend, Result<Capabilities, ProbeError>>;

fn of_probe(what: String, found: Result<String, ProbeError>) -> Finding {
    match found {
        Ok(says) => Finding::good(what, says),
        Err(e) => Finding::new(what, Level::Lacks, e.problem, e.fix),
    }
}

/// Whether this host can hold a profile, and in which backend it would.
fn of_profile(name: &Name, profile: &Profile, probed: &Probed) -> Finding {
    let what = format!("profile {name}");
    let mut reasons = Vec::new();
    for backend in profile.backend.iter() {
        match fits(profile, backend, probed) {
            Ok(()) if reasons.is_empty() => return Finding::good(what, format!("runs in {backend}")),
            Ok(()) => {
                let why = reasons.join("; ");
                return Finding::good(what, format!("runs in {backend}, because {why}"));
            }
            Err(why) => reasons.push(format!("{backend}: {why}")),
        }
    }
    let never = profile.backend.iter().all(|b| profile.never_on(b).is_some());
    let fix = match never {
        true => "No host can hold it: change the profile; `lictor profiles` explains it.",
        false => {
            "Mend what is named here, or run its jobs on another machine; an agent of its own unit may have more than this command."
        }
    };
    let level = if never { Level::Wrong } else { Level::Lacks };
    Finding::new(
        what,
        level,
        format!("cannot be held from here: {}", reasons.join("; ")),
        fix,
    )
}

fn fits(profile: &Profile, backend: Backend, probed: &Probed) -> Result<(), String> {
    if let Some(why) = profile.never_on(backend) {
        return Err(why.to_owned());
    }
    let capabilities = match probed.get(&backend) {
        Some(Ok(capabilities)) => capabilities,
        Some(Err(e)) => return Err(e.to_string()),
        None => return Err("this system has no such backend".to_owned()),
    };
    can_hold(profile, backend, capabilities).map_err(|e| e.to_string())?;
    match &profile.run_as {
        RunAs::User(user) if !capabilities.has(Capability::RunAsUser) => {
            Err(format!("only an agent that is root can run jobs as {user}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use lictor_agent::config::Sandbox;
    use lictor_proto::agent::BackendReport;
    use lictor_sandbox::Config;

    use super::*;

    fn law(toml: &str) -> Profiles {
        let mut law: Profiles = toml::from_str(toml).expect("profiles");
        law.settle().expect("good profiles");
        law
    }

    const LAW: &str = "[profiles.open]\nbackend = \"host\"\nnetwork = \"host\"\n\
                       [profiles.closed]\nbackend = \"bubblewrap\"\n\
                       [profiles.impossible]\nbackend = \"host\"\nnetwork = \"none\"\n";

    /// The host of a test, without the program that makes namespaces.
    async fn without_bwrap(law: &Profiles) -> Vec<Finding> {
        let config = Config {
            bwrap: "/nonexistent/bwrap".into(),
            ..Config::default()
        };
        let node = Node {
            config,
            rootfs: Rootfs::default(),
            dir: None,
            agent: None,
        };
        look(&node, Some(law)).await
    }

    #[tokio::test]
    async fn what_a_running_agent_has_found_counts_and_a_missing_root_file_system_is_named() {
        let place = tempfile::tempdir().expect("a directory");
        let digest = format!("sha256:{}", "ab".repeat(32));
        let law = law(&format!(
            "[profiles.closed]\nbackend = \"bubblewrap\"\n[profiles.rooted]\nbackend = \"bubblewrap\"\nrootfs = \"{digest}\"\n\
             [profiles.fetched]\nbackend = \"bubblewrap\"\nrootfs = \"{digest}\"\nimage = \"registry.example.com/name\"\npull = \"missing\"\n"
        ));
        let all: Capabilities = Capability::ALL
            .into_iter()
            .filter(|c| *c != Capability::IoOfTree)
            .collect();
        let report = BackendReport {
            name: "bubblewrap".to_owned(),
            usable: true,
            engine: None,
            capabilities: all.words(),
            problem: String::new(),
        };
        let by_podman = BackendReport {
            name: "container".to_owned(),
            engine: Some("podman".to_owned()),
            ..report.clone()
        };
        let node = Node {
            config: Config {
                bwrap: "/nonexistent/bwrap".into(),
                ..Config::default()
            },
            rootfs: Rootfs {
                skopeo: "/nonexistent/skopeo".into(),
                ..Rootfs::default()
            },
            dir: Some(place.path().to_owned()),
            agent: Some(Presence {
                process: lictor_sandbox::own_process().expect("this process"),
                since: lictor_proto::Timestamp::now(),
                backends: vec![report, by_podman],
            }),
        };
        let findings = look(&node, Some(&law)).await;
        assert_eq!(
            find(&findings, "profile closed").level,
            Level::Ok,
            "the agent has a bwrap of its own"
        );
        let container = find(&findings, "sandbox container");
        assert!(
            container.says.starts_with("by podman: "),
            "who makes containers is named: {container:?}"
        );
        assert_eq!(find(&findings, "profile rooted").level, Level::Ok);
        let missing = find(&findings, "rootfs of profile rooted");
        assert!(
            missing.level == Level::Lacks && missing.fix.contains("rootfs add"),
            "{missing:?}"
        );
        let fetched = find(&findings, "rootfs of profile fetched");
        assert!(
            fetched.level == Level::Lacks && fetched.fix.contains("apt install skopeo"),
            "{fetched:?}"
        );
        assert!(fetched.says.contains("registry.example.com/name"), "{fetched:?}");
        let cgroup = find(&findings, "agent's cgroup");
        assert!(
            cgroup
                .says
                .contains("held for whole jobs: memory, pids, cpu; missing: io"),
            "{cgroup:?}"
        );
        assert!(
            !findings.iter().any(|f| f.what.starts_with("cgroup")),
            "of this shell's nothing is said"
        );
    }

    fn find<'a>(findings: &'a [Finding], what: &str) -> &'a Finding {
        let mut found = findings.iter().filter(|f| f.what == what);
        found.next().unwrap_or_else(|| panic!("{what}: {findings:?}"))
    }

    #[tokio::test]
    async fn a_host_without_bwrap_is_told_what_to_install_and_which_profiles_it_cannot_hold() {
        let findings = without_bwrap(&law(LAW)).await;
        let backend = find(&findings, "sandbox bubblewrap");
        assert_eq!(backend.level, Level::Lacks);
        assert_eq!(backend.fix, "install it: apt install bubblewrap");
        let closed = find(&findings, "profile closed");
        assert_eq!(closed.level, Level::Lacks, "{closed:?}");
        assert!(
            closed.says.contains("/nonexistent/bwrap is not there"),
            "{closed:?}"
        );
        let open = find(&findings, "profile open");
        assert_eq!((open.level, open.says.as_str()), (Level::Ok, "runs in host"));
        for what in ["user namespaces", "seccomp", "cgroup controllers", "egress proxy"] {
            find(&findings, what);
        }
    }

    #[tokio::test]
    async fn only_a_profile_that_no_host_can_hold_is_wrong() {
        let findings = without_bwrap(&law(LAW)).await;
        assert_eq!(find(&findings, "profile closed").level, Level::Lacks);
        let impossible = find(&findings, "profile impossible");
        assert_eq!(impossible.level, Level::Wrong);
        assert!(impossible.fix.contains("No host can hold it"), "{impossible:?}");
    }

    #[tokio::test]
    async fn the_second_backend_is_chosen_with_the_reason_against_the_first() {
        let law = law(
            "[profiles.either]\nbackend = [\"bubblewrap\", \"host\"]\nnetwork = \"none\"\n\
                       [profiles.late]\nbackend = [\"landlock\", \"host\"]\nread_only = [\"/opt\"]\n",
        );
        let findings = without_bwrap(&law).await;
        let either = find(&findings, "profile either");
        assert_eq!(
            either.level,
            Level::Lacks,
            "the host's network cannot be taken away: {either:?}"
        );
        let probed = Probed::from([
            (
                Backend::Bubblewrap,
                Err(ProbeError {
                    problem: "not there".into(),
                    fix: "install it".into(),
                }),
            ),
            (Backend::Host, Ok(Capabilities::from_iter(Capability::ALL))),
        ]);
        let open = law_open();
        let name: Name = "either".parse().expect("a name");
        let found = of_profile(&name, &open, &probed);
        assert_eq!(
            found.says,
            "runs in host, because bubblewrap: not there; install it"
        );
    }

    fn law_open() -> Profile {
        let mut profile = law("[profiles.x]\nbackend = [\"bubblewrap\", \"host\"]\n")
            .profiles
            .into_values()
            .next()
            .expect("one");
        profile.network = lictor_trust::profiles::Network::Host;
        profile
    }

    #[tokio::test]
    async fn what_is_said_to_be_held_nowhere_is_held_nowhere_here() {
        let law = law(
            "[profiles.a]\nbackend = [\"host\", \"landlock\", \"bubblewrap\"]\nnetwork = \"egress\"\n\
                       egress = { mode = \"open\" }\n\
                       [profiles.b]\nbackend = [\"host\", \"landlock\", \"bubblewrap\"]\nread_only = [\"/opt\"]\n",
        );
        let host = Host::start(super::super::super::agent::host_config(&Sandbox::default())).expect("a host");
        for backend in host.backends() {
            let Ok(capabilities) = backend.probe().await else {
                continue;
            };
            for (name, profile) in &law.profiles {
                if profile.never_on(backend.name()).is_some() {
                    let held = can_hold(profile, backend.name(), &capabilities);
                    assert!(held.is_err(), "{name} in {}", backend.name());
                }
            }
        }
    }
}
