//! Kept sandboxes: what of a sandbox is still there for the next job that names it.
//!
//! ```text
//!   WORK/.kept/KEY/           one sandbox: name, profile, backend and user decide the key
//!        sandbox.json         what it is, when it was made and last used, how long it is kept
//!        workspace/           where its jobs work
//! ```
//!
//! # Invariants
//! - One job at a time has it, by a lock that goes with the agent's process; so a crash lets go of it.
//! - No process is kept, and nothing but the workspace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_proto::{Digest, Name};
use lictor_trust::profiles::{Backend, Persist};
use serde::{Deserialize, Serialize};

/// Below the directory that jobs' own directories are made in.
pub(crate) const PLACE: &str = ".kept";

/// Which one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Which {
    pub(crate) name: Name,
    pub(crate) profile: Name,
    pub(crate) backend: Backend,
    pub(crate) uid: u32,
}

/// One sandbox, in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Kept {
    pub(crate) which: Which,
    /// Its directory.
    pub(crate) dir: PathBuf,
    pub(crate) limits: Limits,
}

/// How long it is kept, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) idle_ms: u64,
    pub(crate) age_ms: u64,
}

impl Kept {
    /// The one of a job whose directory is to be `job_dir`.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn new(which: Which, persist: &Persist, job_dir: &Path) -> Self {
        let text = serde_json::to_vec(&which).unwrap_or_default();
        let digest = Digest::of(&text);
        let key: String = digest.0.iter().take(16).map(|b| format!("{b:02x}")).collect();
        let work = job_dir.parent().unwrap_or(job_dir);
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            which,
            dir: work.join(PLACE).join(key),
            limits: Limits {
                idle_ms: millis(persist.idle),
                age_ms: millis(persist.age),
            },
        }
    }

    /// Where its jobs work.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.dir.join("workspace")
    }
}
