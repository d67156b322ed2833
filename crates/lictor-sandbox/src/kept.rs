//! Kept sandboxes: what of a sandbox is still there for the next job that names it.
//!
//! ```text
//!   WORK/.kept/KEY/           one sandbox: name, profile, backend and user decide the key
//!        sandbox.json         what it is, when it was made and last used, how long it is kept, who has it
//!        workspace/           where its jobs work
//!        snapshots/NAME/      copies of that
//! ```
//!
//! # Invariants
//! - One job at a time has it, by a lock that goes with the agent's process; so a crash lets go of it.
//! - No process is kept, and nothing but the workspace.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::{GitCommit, Operation, Spec};
use lictor_proto::{Digest, Name, Timestamp};
use lictor_trust::profiles::{Backend, Persist};
use serde::{Deserialize, Serialize};

use crate::imp;

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
    /// What for; what the job says has it.
    #[serde(skip)]
    pub(crate) purpose: Purpose,
    /// How much there may be; the profile's digest and the node's own settings have it.
    #[serde(skip)]
    pub(crate) room: Room,
    /// Whether it goes with the job that has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) goes: bool,
}

/// What a job wants a sandbox for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To work there: it is made if need be, and there has to be room.
    Work,
    /// To keep more of it: it has to be there, with room.
    Add,
    /// To keep no more than there is: it has to be there.
    Reduce,
}

/// How long it is kept, in milliseconds, and how much it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) idle_ms: u64,
    pub(crate) age_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
}

/// How much one node keeps, whatever profiles say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBounds {
    /// Sandboxes.
    pub most: u32,
    /// Bytes of all of them together; with more no new one is begun.
    pub bytes: u64,
}

impl Default for KeptBounds {
    fn default() -> Self {
        Self {
            most: 256,
            bytes: 64 << 30,
        }
    }
}

/// What a claim is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) of_profile: Option<u32>,
    pub(crate) of_one: Option<u64>,
    pub(crate) of_node: KeptBounds,
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
                bytes: persist.bytes,
            },
            purpose: Purpose::Work,
            room: Room {
                of_profile: persist.most,
                of_one: persist.bytes,
                of_node: KeptBounds::default(),
            },
            goes: false,
        }
    }

    /// One that goes with the job whose directory is to be `job_dir`: nobody else names it, and it is over at once. `None` where
    /// that directory is called like no job's.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn for_one_job(which: Which, bytes: Option<u64>, job_dir: &Path) -> Option<Self> {
        let name = job_dir.file_name()?.to_str()?.parse().ok()?;
        let nothing = Persist {
            idle: Duration::ZERO,
            age: Duration::ZERO,
            most: None,
            bytes,
        };
        let own = Self::new(Which { name, ..which }, &nothing, job_dir);
        Some(Self { goes: true, ..own })
    }

    /// The same for this work.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn wanted_by(self, spec: &Spec) -> Self {
        let purpose = match spec {
            Spec::Workspace(workspace) => match workspace.operation {
                Operation::Clone => Purpose::Work,
                Operation::Fetch | Operation::Snapshot => Purpose::Add,
                Operation::List
                | Operation::Show
                | Operation::Diff
                | Operation::Restore
                | Operation::Remove => Purpose::Reduce,
            },
            Spec::Exec(_) | Spec::Script(_) | Spec::Fetch(_) | Spec::Collect(_) => Purpose::Work,
        };
        Self { purpose, ..self }
    }

    /// Where its jobs work.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.dir.join("workspace")
    }

    /// What it may hold while a job of this purpose is there; `None` where nobody says, or the job adds nothing of its own.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn bound(&self) -> Option<u64> {
        self.room.of_one.filter(|_| self.purpose != Purpose::Reduce)
    }
}

/// A kept sandbox that a job has, for its receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptUse {
    /// What it is called.
    pub name: Name,
    /// When it was made: by this job, if that is not before the job's own start.
    pub made_at: Timestamp,
    /// Whether this job is the first that has it.
    pub is_new: bool,
}

/// A kept sandbox as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSandbox {
    /// What its directory is called, which is nobody else's name.
    pub key: String,
    /// What jobs call it.
    pub name: Name,
    /// Of jobs under this profile.
    pub profile: Name,
    /// In this backend.
    pub backend: Backend,
    /// The user of the host that its jobs run as.
    pub uid: u32,
    /// When it was made.
    pub made_at: Timestamp,
    /// When its last job ended, or when the one that has it began.
    pub used_at: Timestamp,
    /// When it is removed, if nobody uses it until then.
    pub until: Timestamp,
    /// What it held when it was last counted, snapshots included.
    pub bytes: u64,
    /// Whether that was at the end of its last job. What cannot be counted (over four million entries, over 200 directories in
    /// each other, or closed to the agent) counts as all that it may hold.
    pub counted: bool,
    /// Its snapshots.
    pub snapshots: Vec<Name>,
    /// The job that works there, by its id.
    pub held_by: Option<String>,
    /// What was cloned into it.
    pub git: Option<GitCommit>,
}

/// Why something could not be done with a kept sandbox.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// None is called so.
    #[error("no kept sandbox here is called {0}")]
    Unknown(String),
    /// Several are; the keys tell them apart.
    #[error("several kept sandboxes are called {name}: {}", .keys.join(", "))]
    Several {
        /// The name.
        name: String,
        /// Their keys.
        keys: Vec<String>,
    },
    /// It has no such snapshot.
    #[error("the sandbox {sandbox} has no snapshot {snapshot}")]
    NoSnapshot {
        /// Its name.
        sandbox: String,
        /// The snapshot's.
        snapshot: Name,
    },
    /// A job works there.
    #[error("{} works in the sandbox {name}", .job.as_deref().unwrap_or("a job"))]
    Busy {
        /// Its name.
        name: String,
        /// The job, by its id.
        job: Option<String>,
    },
    /// The file system's reason.
    #[error("the kept sandboxes cannot be used")]
    Io(#[from] io::Error),
}

impl KeptError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown(_) | Self::NoSnapshot { .. } => Code::SandboxUnknown,
            Self::Several { .. } => Code::BadRequest,
            Self::Busy { .. } => Code::SandboxBusy,
            Self::Io(_) => Code::Internal,
        }
    }
}

/// The kept sandboxes of one node, for whoever may read its directories. What is done to one is done under its lock, so
/// one that a job works in is refused.
#[derive(Debug, Clone)]
pub struct KeptSandboxes {
    work: PathBuf,
}

impl KeptSandboxes {
    /// Those of jobs whose directories are made in `work`.
    #[must_use]
    pub fn below(work: &Path) -> Self {
        Self {
            work: work.to_owned(),
        }
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(&self) -> io::Result<Vec<KeptSandbox>> {
        let mut found = imp::list_kept(&self.work)?;
        found.sort_by(|a, b| (&a.name, &a.profile, &a.key).cmp(&(&b.name, &b.profile, &b.key)));
        Ok(found)
    }

    /// The one that is meant by a name, or by its key.
    ///
    /// # Errors
    /// [`KeptError::Unknown`], [`KeptError::Several`], or the file system's.
    pub fn find(&self, wanted: &str) -> Result<KeptSandbox, KeptError> {
        let all = self.list()?;
        let named = |k: &KeptSandbox| k.key == wanted || k.name.as_str() == wanted;
        let mut found: Vec<_> = all.into_iter().filter(named).collect();
        match (found.pop(), found.is_empty()) {
            (None, _) => Err(KeptError::Unknown(wanted.to_owned())),
            (Some(one), true) => Ok(one),
            (Some(last), false) => Err(KeptError::Several {
                name: wanted.to_owned(),
                keys: found.into_iter().chain([last]).map(|k| k.key).collect(),
            }),
        }
    }

    /// Removes one with all that it holds.
    ///
    /// # Errors
    /// [`KeptError::Busy`], or the file system's.
    pub fn remove(&self, one: &KeptSandbox) -> Result<(), KeptError> {
        imp::remove_kept(&self.place(one), one)
    }

    /// Copies what it holds; another snapshot of that name is replaced when the copy is complete.
    ///
    /// # Errors
    /// [`KeptError::Busy`], or the file system's; then there is what there was before.
    pub fn snapshot(&self, one: &KeptSandbox, name: &Name) -> Result<(), KeptError> {
        imp::snapshot_kept(&self.place(one), one, name)
    }

    /// Puts a snapshot in the place of what it holds.
    ///
    /// # Errors
    /// As above, and [`KeptError::NoSnapshot`].
    pub fn restore(&self, one: &KeptSandbox, name: &Name) -> Result<(), KeptError> {
        imp::restore_kept(&self.place(one), one, name)
    }

    fn place(&self, one: &KeptSandbox) -> PathBuf {
        self.work.join(PLACE).join(&one.key)
    }
}

impl From<&KeptError> for Refusal {
    fn from(error: &KeptError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Removes kept sandboxes whose time is over, as often as it is asked to.
#[derive(Debug)]
pub struct KeptSweep(imp::KeptSweep);

impl KeptSweep {
    /// One that removes what has been over for so long, from its first look on: until then the clock may be put right.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self(imp::KeptSweep::new(patience))
    }

    /// Removes those that no job works in; `work` is where the jobs' directories are made. Waits for the disk.
    ///
    /// # Errors
    /// The system's, after all that could be removed was.
    pub fn run(&mut self, work: &Path, now: Timestamp) -> io::Result<()> {
        self.0.run(work, now)
    }
}

/// Keeps other jobs out of a kept sandbox.
#[derive(Debug)]
pub struct KeptHold {
    _lock: imp::KeptLock,
}

/// Keeps other jobs out of the kept sandbox of a job that has not been ended yet, for as long as what is returned lives;
/// `None` when it has none, or somebody else has it. `dir` is the job's own directory.
#[must_use]
pub fn hold_kept(dir: &Path) -> Option<KeptHold> {
    let name = dir.file_name()?.to_str()?;
    let lock = imp::hold_kept(dir.parent()?, name)?;
    Some(KeptHold { _lock: lock })
}

/// Whether an entry of the directory that the jobs' directories are made in is where kept sandboxes are: nobody's to
/// remove but [`KeptSweep`]'s.
#[must_use]
pub fn is_kept_place(name: &std::ffi::OsStr) -> bool {
    name == PLACE
}
