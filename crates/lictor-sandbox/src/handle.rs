//! What is written down about a running job so that a later agent process can find it again.
//!
//! A pid alone names nobody: it is used again. Boot id, start time and cgroup path together do.
//!
//! # Invariants
//! - [`Recovered`] can wait, kill and destroy. It cannot start anything: that takes a new permit.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::imp;

/// Finds a job's processes, cgroup and directory again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handle {
    /// `host`, `bubblewrap`.
    pub backend: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The processes at the root of the job's tree.
    pub roots: Vec<ProcessId>,
    /// The job's cgroup directory, where it has one.
    pub cgroup: Option<PathBuf>,
    /// Its directories of cgroup version 1, where its limits took any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups_v1: Vec<PathBuf>,
    /// The job's own directory.
    pub dir: PathBuf,
}

impl Handle {
    /// A handle for a job of which only the directory is known: its agent went away before it could write down that
    /// the job runs. It names what is found now; recovering it may say that nothing is left.
    #[must_use]
    pub fn look_for(backend: &str, dir: &Path) -> Self {
        imp::Recovered::look_for(backend, dir)
    }
}

/// A process, told apart from later ones with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// The pid.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start: u64,
}

/// A job that an earlier agent process started.
#[derive(Debug)]
pub struct Recovered {
    inner: imp::Recovered,
}

impl Recovered {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn new(inner: imp::Recovered) -> Self {
        Self { inner }
    }

    /// Waits until no process of it is left.
    pub async fn wait(&mut self) {
        self.inner.wait().await;
    }

    /// Ends every process of it at once.
    ///
    /// # Errors
    /// When something survived.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.inner.kill().await
    }

    /// Ends it and removes its cgroup and directory.
    ///
    /// # Errors
    /// When something could not be removed.
    pub async fn destroy(mut self) -> io::Result<()> {
        self.inner.destroy().await
    }
}
