//! The node that this machine is, as far as it is one: the agent's settings, its directory, and the agent itself where it runs.
//!
//! # Invariants
//! - What a running agent has found counts more than what can be found from here: it has a cgroup and rights of its own.

use std::path::{Path, PathBuf};

use lictor_agent::AgentConfig;
use lictor_sandbox::{Capability, Config};
use lictor_trust::profiles::Backend;
use lictor_warden::Presence;

use super::{Finding, Level};
use crate::args::Doctor;
use crate::commands::agent::host_config;
use crate::session::Session;

/// Where agents keep their directory when nobody says anything else.
const USUAL: &str = "/var/lib/lictor/agent";

/// What each limit on whole jobs takes, and what it is called.
const LIMITS: [(Capability, &str); 4] = [
    (Capability::MemoryOfTree, "memory"),
    (Capability::Pids, "pids"),
    (Capability::CpuOfTree, "cpu"),
    (Capability::IoOfTree, "io"),
];

/// A node, or what would be one.
pub(super) struct Node {
    /// What sandboxes are made with.
    pub(super) config: Config,
    /// How root file systems are fetched.
    pub(super) rootfs: lictor_agent::config::Rootfs,
    /// Its directory, where there is one.
    pub(super) dir: Option<PathBuf>,
    /// The agent that serves it.
    pub(super) agent: Option<Presence>,
}

impl Node {
    /// The one that the arguments name, else that of `lictor up` in this home, else the machine's.
    pub(super) fn find(args: &Doctor, session: Option<&Session>) -> Result<Self, Finding> {
        let config = match (&args.config, &args.dir) {
            (Some(file), _) => Some(AgentConfig::load(file).map_err(|e| {
                let fix = "`lictor agent run --config` refuses it as well: mend it there.";
                Finding::bad("agent's configuration", chain(&e), fix)
            })?),
            (None, Some(dir)) => Some(AgentConfig::new(dir)),
            (None, None) => {
                let own = session.map(|s| s.home.dir().join("agent"));
                let places = own.into_iter().chain([PathBuf::from(USUAL)]);
                let mut nodes = places.filter(|dir| dir.join("node.json").exists());
                nodes.next().map(|dir| AgentConfig::new(&dir))
            }
        };
        Ok(match config {
            Some(config) => Self {
                agent: presence(&config.dir)?,
                config: host_config(&config.sandbox),
                rootfs: config.rootfs,
                dir: Some(config.dir),
            },
            None => Self {
                config: host_config(&lictor_agent::config::Sandbox::default()),
                rootfs: lictor_agent::config::Rootfs::default(),
                dir: None,
                agent: None,
            },
        })
    }

    /// What is to be said about the agent itself.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let Some(dir) = &self.dir else {
            return Vec::new();
        };
        let Some(agent) = &self.agent else {
            let says = format!(
                "none serves {}: what follows is as found from here",
                dir.display()
            );
            return [Finding::good("agent", says)]
                .into_iter()
                .chain(archive(dir))
                .collect();
        };
        let pid = agent.process.pid;
        let says = format!("process {pid} serves {} since {}", dir.display(), agent.since);
        [Finding::good("agent", says), cgroup(agent)]
            .into_iter()
            .chain(archive(dir))
            .collect()
    }
}

/// Results that the hub never took, if there are any.
fn archive(dir: &Path) -> Option<Finding> {
    let what = "archive";
    match lictor_warden::archive::list(dir) {
        Ok(all) => {
            let (_, oldest) = all.first()?;
            let n = all.len();
            let says = format!(
                "{n} results that the hub has not taken, the oldest of {}",
                oldest.finished_at
            );
            let fix = "They are told to the hub when it is back: look at its link. `lictor agent archive ls` shows them.";
            Some(Finding::new(what, Level::Lacks, says, fix))
        }
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(e) => Some(Finding::bad(
            what,
            chain(&e),
            "Look at the directory `archive` of the node's.",
        )),
    }
}

fn presence(dir: &Path) -> Result<Option<Presence>, Finding> {
    Presence::read(dir).map_err(|e| {
        let fix = "Run it as the agent's user.";
        Finding::new("agent", Level::Lacks, chain(&e), fix)
    })
}

/// Where the agent is, and what its jobs are held by there.
fn cgroup(agent: &Presence) -> Finding {
    let what = "agent's cgroup";
    let place = lictor_sandbox::cgroup_of(agent.process).unwrap_or_else(|e| format!("unknown ({e})"));
    let has = |capability: Capability| {
        let word = capability.as_str();
        let mut all = agent
            .backends
            .iter()
            .filter(|b| b.usable)
            .flat_map(|b| &b.capabilities);
        all.any(|c| c == word)
    };
    let names = |held: bool| -> String {
        let those = LIMITS.iter().filter(|(c, _)| has(*c) == held);
        those.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    };
    let (held, missing) = (names(true), names(false));
    let first = LIMITS.iter().find(|(c, _)| !has(*c));
    match (held.is_empty(), missing.is_empty()) {
        (_, true) => Finding::good(what, format!("{place}; held for whole jobs: {held}")),
        (none, false) => {
            let held = if none { "nothing" } else { &held };
            let says = format!("{place}; held for whole jobs: {held}; missing: {missing}");
            let fix = first.map_or("", |(c, _)| c.fix(Backend::Host));
            Finding::new(what, Level::Lacks, says, fix)
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}
