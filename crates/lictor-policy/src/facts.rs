//! What the agent found out about a job by itself, in the profile's root, before policy judges it.
//!
//! Facts are data: the sandbox crate fills them in, policy reads them, an ask shows them, an approval may bind
//! them. Their digest is taken over one JSON text, so that what a person looked at is what is compared.

use lictor_proto::doc::{Delivery, Job, SecretUse, Spec};
use lictor_proto::{Digest, Name};
use lictor_trust::profiles::Profile;
use serde::{Deserialize, Serialize};

/// Everything that policy sees besides what was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The program that would be executed; of a script its interpreter; where files are carried the node's own.
    pub program: ProgramFacts,
    /// The interpreters that its `#!` lines lead to, in order; empty for a binary.
    pub interpreters: Vec<ProgramFacts>,
    /// Names of all variables that would be set, sorted.
    pub env_names: Vec<String>,
    /// `none`, `host`, or with an egress section its mode: `allowlist`, `open`.
    pub network: String,
    /// The profile.
    pub profile: Name,
    /// Its digest.
    pub profile_digest: Digest,
    /// `host`, `bubblewrap`, ...
    pub backend: String,
    /// Whether the job sees a root, processes and users of its own.
    pub namespaced: bool,
    /// The root file system that it sees in place of the host's, by its digest: that of a tarball, or of an image's
    /// manifest; left out where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Digest>,
    /// The index by which the profile names that image; left out where it names the image itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs_index: Option<Digest>,
    /// Numeric user id on the host.
    pub run_as_uid: u32,
    /// Numeric group id on the host, where the job has chosen user or group; left out otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_gid: Option<u32>,
    /// All groups that it is in then, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_as_groups: Vec<u32>,
    /// Working directory, as the job sees it.
    pub cwd: String,
    /// The secrets that it uses, in the order of its own list; left out where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretFacts>,
}

/// A secret that a job uses, as its verified document has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFacts {
    /// What it is called.
    pub name: Name,
    /// Which version.
    pub version: u64,
    /// Who set it.
    pub set_by: Name,
    /// How it reaches the job.
    pub delivery: Delivery,
}

/// A file that would be executed, as seen in the profile's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramFacts {
    /// Canonical path, all links resolved.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: Digest,
    /// Whether the run-as user could change it, or a directory above it.
    pub writable: bool,
}

impl SecretFacts {
    /// One that the job's own operator has set.
    fn assume(used: &SecretUse, job: &Job) -> Self {
        Self {
            name: used.name.clone(),
            version: used.version,
            set_by: job.operator.clone(),
            delivery: used.delivery,
        }
    }
}

impl Facts {
    /// What a node would probably find, for predictions: the program under `/usr/bin` unless it is a path, not
    /// writable, an unknown digest. Nothing that acts may use it.
    #[must_use]
    pub fn assume(profile: Option<&Profile>, job: &Job) -> Self {
        let process = job.process();
        let called = match &job.spec {
            Spec::Exec(exec) => exec.argv.first().map_or("", String::as_str),
            Spec::Script(script) => script.interpreter.as_str(),
            Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => "lictor",
        };
        let path = if called.contains('/') {
            called.to_owned()
        } else {
            format!("/usr/bin/{called}")
        };
        let unknown = Digest([0; 32]);
        let names = profile.iter().flat_map(|p| p.variables());
        let names = names.chain(process.env.keys().map(String::as_str));
        let mut env_names: Vec<_> = names.map(str::to_owned).collect();
        env_names.sort_unstable();
        env_names.dedup();
        Self {
            program: ProgramFacts {
                path,
                sha256: unknown,
                writable: false,
            },
            interpreters: Vec::new(),
            env_names,
            network: profile.map_or("none", Profile::network_word).to_owned(),
            profile: job.profile.clone(),
            profile_digest: profile.map_or(unknown, Profile::digest),
            backend: profile.map_or("", |p| p.backend.preferred().as_str()).to_owned(),
            namespaced: profile.is_some_and(|p| p.backend.preferred().is_namespaced()),
            rootfs: profile.and_then(|p| p.rootfs),
            rootfs_index: None,
            run_as_uid: 1000,
            run_as_gid: None,
            run_as_groups: Vec::new(),
            cwd: process.cwd.unwrap_or("/").to_owned(),
            secrets: job
                .secrets
                .iter()
                .map(|used| SecretFacts::assume(used, job))
                .collect(),
        }
    }

    /// What the profile has to name for the job to see that root.
    #[must_use]
    pub fn named_rootfs(&self) -> Option<Digest> {
        self.rootfs.and(self.rootfs_index.or(self.rootfs))
    }

    /// The one JSON text of these facts.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// SHA-256 of that text.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_text().as_bytes())
    }
}
