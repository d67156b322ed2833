//! What the agent found out about a job by itself, in the profile's root, before policy judges it.
//!
//! Facts are data: the sandbox crate fills them in, policy reads them, an ask shows them, an approval may bind
//! them. Their digest is taken over one JSON text, so that what a person looked at is what is compared.

use lictor_proto::{Digest, Name};
use serde::{Deserialize, Serialize};

/// Everything that policy sees besides what was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The program that would be executed.
    pub program: ProgramFacts,
    /// The interpreters that its `#!` lines lead to, in order; empty for a binary.
    pub interpreters: Vec<ProgramFacts>,
    /// Names of all variables that would be set, sorted.
    pub env_names: Vec<String>,
    /// `none` or `host`.
    pub network: String,
    /// The profile.
    pub profile: Name,
    /// Its digest.
    pub profile_digest: Digest,
    /// `host`, `bubblewrap`, ...
    pub backend: String,
    /// Whether the job sees a root, processes and users of its own.
    pub namespaced: bool,
    /// Numeric user id on the host.
    pub run_as_uid: u32,
    /// Working directory, as the job sees it.
    pub cwd: String,
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

impl Facts {
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
