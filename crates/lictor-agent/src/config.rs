//! The agent's settings: one TOML file, unknown keys refused (`docs/config/agent.toml` shows all of them).

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_warden::ContainerEngine;
use serde::Deserialize;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How the agent reaches its hub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A WebSocket that stays open, HTTP/2 inside: the hub reaches the agent at once.
    #[default]
    Link,
    /// Ordinary HTTPS requests, where nothing else passes.
    Poll,
}

/// The agent's settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The node directory, made by `lictor agent enroll`.
    pub dir: PathBuf,
    /// How to reach the hub.
    #[serde(default)]
    pub transport: Transport,
    /// The hub's address, when it has moved since enrolment; its key stays pinned.
    #[serde(default)]
    pub hub_url: Option<String>,
    /// On SIGTERM: how long running jobs may go on, in seconds.
    #[serde(default = "drain_grace")]
    pub drain_grace_s: u64,
    /// How much work is held at once.
    #[serde(default)]
    pub limits: Limits,
    /// How much of root filesystems is kept.
    #[serde(default)]
    pub rootfs: Rootfs,
    /// How files are downloaded that jobs put here from URLs.
    #[serde(default)]
    pub downloads: Downloads,
    /// What sandboxes are made with.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// What fetches root filesystems; who starts the agent says it, no file does.
    #[serde(skip)]
    pub puller: Option<lictor_warden::Puller>,
    /// What downloads files, likewise.
    #[serde(skip)]
    pub downloader: Option<lictor_warden::Downloader>,
}

/// How files are downloaded that jobs put here from URLs. Where from is said by the law.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Downloads {
    /// How many at once.
    pub at_once: NonZeroUsize,
    /// How often one that brings nothing new is tried before its job is refused.
    pub tries: NonZeroUsize,
    /// Seconds in which at least 64 KiB have to come.
    pub stall_s: NonZeroU32,
    /// Seconds after which one lets others have its turn, if any wait.
    pub turn_s: NonZeroU32,
    /// Certificates of authorities that are trusted besides the machine's, PEM.
    pub ca_file: Option<PathBuf>,
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            at_once: const { NonZeroUsize::new(4).unwrap() },
            tries: const { NonZeroUsize::new(5).unwrap() },
            stall_s: const { NonZeroU32::new(60).unwrap() },
            turn_s: const { NonZeroU32::new(600).unwrap() },
            ca_file: None,
        }
    }
}

/// What sandboxes are made with; what is not set is what every host has by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// The unprivileged user of the host that sandboxed jobs of a root agent run as.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// The `bwrap` program.
    pub bwrap: Option<PathBuf>,
    /// Who makes containers.
    pub container_engine: ContainerEngine,
    /// The OCI runtime that makes containers.
    pub oci_runtime: Option<PathBuf>,
    /// The `podman` program.
    pub podman: Option<PathBuf>,
    /// Where a Docker daemon listens.
    pub docker_socket: Option<PathBuf>,
    /// The `runsc` program.
    pub runsc: Option<PathBuf>,
    /// Who root is in containers: an id that no user and no group of the host has.
    pub container_root: Option<u32>,
    /// Where container runtimes keep their files while a job runs.
    pub runtime_dir: Option<PathBuf>,
    /// How many sandboxes are kept for jobs that name them, whatever profiles say.
    pub kept_most: Option<NonZeroU32>,
    /// GiB of all of them together; with more no new one is begun.
    pub kept_gib: Option<NonZeroU32>,
    /// How many seconds one must have been seen to be over before it is removed; until then the clock may be put right.
    pub kept_patience_s: Option<u32>,
}

/// How much is kept of the root filesystems that profiles name, and how they are fetched. What a job uses is never removed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rootfs {
    /// All together, in GiB; beyond that the one goes that was used longest ago.
    pub max_gib: NonZeroU32,
    /// How many days one may lie unused.
    pub unused_days: NonZeroU32,
    /// The `skopeo` program, which speaks with registries.
    pub skopeo: PathBuf,
    /// A file with passwords for registries, as `skopeo login --authfile` writes it. Without one nobody's are used.
    pub credentials: Option<PathBuf>,
    /// Registries that are spoken with without TLS, or with whatever certificate they have: `HOST` or `HOST:PORT`. What is
    /// fetched is held against its digest all the same; who asks for what can then be seen on the way.
    pub insecure_registries: Vec<String>,
    /// Largest image, in MiB, as fetched and as unpacked; never more than all together may have.
    pub pull_max_mib: NonZeroU32,
    /// How many seconds one may take to arrive.
    pub pull_timeout_s: NonZeroU32,
}

impl Rootfs {
    /// Bytes of all together.
    #[must_use]
    pub fn all_bytes(&self) -> u64 {
        u64::from(self.max_gib.get()) << 30
    }

    /// Bytes of the largest image that is fetched.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        (u64::from(self.pull_max_mib.get()) << 20).min(self.all_bytes())
    }

    /// How long one may take to arrive.
    #[must_use]
    pub fn pull_within(&self) -> Duration {
        Duration::from_secs(self.pull_timeout_s.get().into())
    }

    /// Whether a registry, with its port where it has one, is spoken with without TLS.
    #[must_use]
    pub fn is_insecure(&self, registry: &str) -> bool {
        let host = registry.split(':').next().unwrap_or_default();
        let mut listed = self.insecure_registries.iter();
        listed.any(|r| r == registry || r == host)
    }
}

impl Default for Rootfs {
    fn default() -> Self {
        Self {
            max_gib: const { NonZeroU32::new(20).unwrap() },
            unused_days: const { NonZeroU32::new(30).unwrap() },
            skopeo: PathBuf::from("/usr/bin/skopeo"),
            credentials: None,
            insecure_registries: Vec::new(),
            pull_max_mib: const { NonZeroU32::new(16 * 1024).unwrap() },
            pull_timeout_s: const { NonZeroU32::new(900).unwrap() },
        }
    }
}

/// How much work a node holds at once. Everything is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Jobs that may run at once.
    pub max_jobs: NonZeroUsize,
    /// Verified offers that may wait a few seconds for one of these places.
    pub max_queued: NonZeroUsize,
    /// Jobs that may wait for approvals.
    pub max_waiting: NonZeroUsize,
    /// Results that may wait for the hub's acknowledgement before nothing new is taken.
    pub max_unacknowledged: NonZeroUsize,
    /// How many days such a result waits before it is moved to the archive directory.
    pub keep_results_days: NonZeroU32,
    /// MiB that the archive directory may have; beyond that the oldest result goes.
    pub archive_mib: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_jobs: const { NonZeroUsize::new(64).unwrap() },
            max_queued: const { NonZeroUsize::new(256).unwrap() },
            max_waiting: const { NonZeroUsize::new(1024).unwrap() },
            max_unacknowledged: const { NonZeroUsize::new(4096).unwrap() },
            keep_results_days: const { NonZeroU32::new(7).unwrap() },
            archive_mib: const { NonZeroU32::new(1024).unwrap() },
        }
    }
}

fn drain_grace() -> u64 {
    30
}

/// Why settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] std::io::Error),
    /// It is not the TOML that it should be.
    #[error("invalid configuration")]
    Malformed(#[source] Box<toml::de::Error>),
}

impl AgentConfig {
    /// The settings for a node directory when there is no file.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            transport: Transport::default(),
            hub_url: None,
            drain_grace_s: drain_grace(),
            limits: Limits::default(),
            rootfs: Rootfs::default(),
            downloads: Downloads::default(),
            sandbox: Sandbox::default(),
            puller: None,
            downloader: None,
        }
    }

    /// What the warden of this node is started with.
    #[must_use]
    pub fn warden(&self) -> lictor_warden::Config {
        let limits = &self.limits;
        let rootfs = lictor_warden::RootfsBounds {
            bytes: self.rootfs.all_bytes(),
            unused: DAY * self.rootfs.unused_days.get(),
        };
        let usual = lictor_warden::Config::new(&self.dir);
        lictor_warden::Config {
            rootfs,
            puller: self.puller.clone(),
            downloader: self.downloader.clone(),
            max_jobs: limits.max_jobs.get(),
            max_queued: limits.max_queued.get(),
            max_waiting: limits.max_waiting.get(),
            max_unacknowledged: limits.max_unacknowledged.get(),
            keep_results: DAY * limits.keep_results_days.get(),
            archive_bytes: u64::from(limits.archive_mib.get()) << 20,
            kept_patience: self
                .sandbox
                .kept_patience_s
                .map_or(usual.kept_patience, |s| Duration::from_secs(s.into())),
            ..usual
        }
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`], which names the line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| ConfigError::Malformed(Box::new(e)))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Io(path.into(), e))?;
        Self::parse(&text)
    }

    /// How long running jobs may go on after SIGTERM.
    #[must_use]
    pub fn drain_grace(&self) -> Duration {
        Duration::from_secs(self.drain_grace_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example_is_the_default() {
        let example = include_str!("../../../docs/config/agent.toml");
        let read = AgentConfig::parse(example).unwrap();
        assert_eq!(read, AgentConfig::new(Path::new("/var/lib/lictor/agent")));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(AgentConfig::parse("dir = \"/x\"").is_ok());
        assert!(AgentConfig::parse("dir = \"/x\"\npol = true").is_err());
        assert!(AgentConfig::parse("dir = \"/x\"\ntransport = \"pigeon\"").is_err());
        assert!(AgentConfig::parse("dir = \"/x\"\n[limits]\nmax_job = 1").is_err());
        assert!(AgentConfig::parse("dir = \"/x\"\n[sandbox]\nuid = 970").is_ok());
        assert!(AgentConfig::parse("dir = \"/x\"\n[sandbox]\nuser = 970").is_err());
    }

    #[test]
    fn only_a_registry_that_is_listed_is_spoken_with_without_tls() {
        let none = AgentConfig::parse("dir = \"/x\"").unwrap().rootfs;
        let text = "dir = \"/x\"\n[rootfs]\ninsecure_registries = [\"registry.example.com:5000\", \"old.example.com\"]";
        let some = AgentConfig::parse(text).unwrap().rootfs;
        for (registry, insecure) in [
            ("registry.example.com:5000", true),
            ("registry.example.com", false),
            ("registry.example.com:5001", false),
            ("old.example.com", true),
            ("old.example.com:8080", true),
            ("very.old.example.com", false),
            ("127.0.0.1:5000", false),
            ("localhost", false),
        ] {
            assert_eq!(some.is_insecure(registry), insecure, "{registry}");
            assert!(!none.is_insecure(registry), "{registry}");
        }
    }

    #[test]
    fn no_image_may_have_more_than_all_together() {
        let text = "dir = \"/x\"\n[rootfs]\nmax_gib = 1\npull_max_mib = 4096";
        assert_eq!(AgentConfig::parse(text).unwrap().rootfs.image_bytes(), 1 << 30);
        assert_eq!(Rootfs::default().image_bytes(), 16 << 30);
    }

    #[test]
    fn limits_reach_the_warden_and_zero_is_refused() {
        let defaults = AgentConfig::new(Path::new("/x")).warden();
        let shipped = lictor_warden::Config::new("/x");
        assert_eq!(
            (defaults.max_jobs, defaults.max_queued, defaults.max_waiting),
            (shipped.max_jobs, shipped.max_queued, shipped.max_waiting)
        );
        assert_eq!(
            (
                defaults.max_unacknowledged,
                defaults.keep_results,
                defaults.archive_bytes
            ),
            (
                shipped.max_unacknowledged,
                shipped.keep_results,
                shipped.archive_bytes
            )
        );
        assert_eq!(defaults.rootfs, shipped.rootfs);
        let set = AgentConfig::parse("dir = \"/x\"\n[limits]\nmax_jobs = 2\nkeep_results_days = 1").unwrap();
        assert_eq!((set.warden().max_jobs, set.warden().keep_results), (2, DAY));
        assert!(AgentConfig::parse("dir = \"/x\"\n[limits]\nmax_jobs = 0").is_err());
    }
}
