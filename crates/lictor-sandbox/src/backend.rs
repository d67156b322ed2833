//! The traits that every backend stands behind, and how starting can fail.
//!
//! ```text
//! Plan --create--> Sandbox --exec--> Running --wait--> Ended
//!                     '------- destroy: nothing is left
//! Handle --recover--> Recovered: wait, kill, destroy; never exec
//! ```

use std::io;

use async_trait::async_trait;
use lictor_proto::Name;
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::{GitCommit, Usage};
use lictor_trust::profiles::Backend as BackendName;

use crate::capability::Capabilities;
use crate::handle::{Handle, Recovered};
use crate::plan::Plan;
use crate::running::Running;
use crate::terminal::Stdio;

/// One way to isolate a job.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Which one.
    fn name(&self) -> BackendName;

    /// What it can enforce here, found out by doing it.
    ///
    /// # Errors
    /// When it cannot be used here at all; the error says what to do about it.
    async fn probe(&self) -> Result<Capabilities, ProbeError>;

    /// Makes the sandbox of a plan; nothing of the job runs yet.
    ///
    /// # Errors
    /// [`StartError`]; whatever was made so far is gone again.
    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError>;

    /// Takes up what an earlier agent process left behind.
    ///
    /// # Errors
    /// [`RecoverError::Gone`] when nothing of it is left.
    async fn recover(&self, handle: Handle) -> Result<Recovered, RecoverError>;
}

/// A place that one plan was made for.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// The plan.
    fn plan(&self) -> &Plan;

    /// Starts the plan's program. Once: a plan permits one start.
    ///
    /// # Errors
    /// [`StartError`]; then nothing of the job has run.
    async fn exec(&mut self, stdio: Stdio) -> Result<Running, StartError>;

    /// Sends a signal to every process of the job.
    ///
    /// # Errors
    /// When nothing runs.
    async fn signal(&self, signal: i32) -> io::Result<()>;

    /// What the job has used up to now.
    ///
    /// # Errors
    /// When nothing runs.
    async fn usage(&self) -> io::Result<Usage>;

    /// Holding the job and letting it go on, where the backend can.
    fn suspension(&self) -> Option<&dyn Suspend> {
        None
    }

    /// Snapshots of the kept sandbox that the job works in; `None` when it works in one of its own.
    fn snapshots(&self) -> Option<&dyn Snapshot> {
        None
    }

    /// Ends whatever still runs and removes everything: processes, mounts, cgroup, directory.
    ///
    /// # Errors
    /// When something could not be removed; calling it again tries again.
    async fn destroy(&mut self) -> io::Result<()>;
}

/// A sandbox whose job can be held.
///
/// Its time limit goes on meanwhile: it is a promise about wall time. What ends the job (that limit, a stop,
/// `destroy`) ends it held or not; with TERM it goes on, so that it can clean up.
#[async_trait]
pub trait Suspend: Send + Sync {
    /// Holds every process of the job; returns when all of them stand still. Twice is once.
    ///
    /// # Errors
    /// When nothing runs, or somebody does not stand still within 10 s; then all go on.
    async fn suspend(&self) -> io::Result<()>;

    /// Lets it go on; nothing happens when it is not held. Where there is no cgroup, processes that the job itself had
    /// stopped go on as well.
    ///
    /// # Errors
    /// When nothing runs.
    async fn resume(&self) -> io::Result<()>;
}

/// Snapshots of a kept sandbox: files, directories and links of what its jobs work in, with owners, modes and times. They
/// are removed with it. One copy is at most a million entries, 64 GiB, and 200 directories deep; there are 16 at most.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// Copies what it holds now; another one of that name is replaced when the copy is complete.
    ///
    /// # Errors
    /// `ResourceBusy` while processes of the job live, `QuotaExceeded` for too much, or the system's. Then there is what
    /// there was before.
    async fn snapshot(&self, name: &Name) -> io::Result<()>;

    /// Puts a snapshot in the place of what it holds, for its next job. Only after the end of this one's program.
    ///
    /// # Errors
    /// As above; `NotFound` when there is none of that name.
    async fn restore(&self, name: &Name) -> io::Result<()>;

    /// Removes it, with its snapshots, for good: there is none of its name then. Only after the end of the job's program.
    ///
    /// # Errors
    /// As above; what could not be removed is nobody's any more, and removed later.
    async fn remove(&self) -> io::Result<()>;

    /// Empties it again after a clone that did not come to its end, if there was nothing in it when the job got it.
    ///
    /// # Errors
    /// As above.
    async fn clear(&self) -> io::Result<()>;

    /// Says that this has been cloned into it: it is remembered, where no job can change it.
    fn cloned(&self, git: &GitCommit);
}

/// A backend that cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {fix}")]
pub struct ProbeError {
    /// What is missing.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program is not the file that was judged.
    #[error("{path} was changed between the decision and the start")]
    ProgramChanged {
        /// Canonical path.
        path: String,
    },
    /// The system refused a step.
    #[error("cannot {step}")]
    Failed {
        /// What was being done, as a verb phrase.
        step: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another job works in the kept sandbox that this one names.
    #[error("{} works in the sandbox {name}", .job.as_deref().unwrap_or("another job"))]
    Busy {
        /// Its name.
        name: String,
        /// That job, by its id, where it is known.
        job: Option<String>,
    },
    /// The job names a kept sandbox to do something with it, and there is none.
    #[error("the profile has no kept sandbox {name} here")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// No further sandbox, or no more in this one, is kept.
    #[error("{why}")]
    Full {
        /// What is met.
        why: String,
    },
    /// The plan has been started before.
    #[error("this sandbox has run its program already")]
    AlreadyStarted,
}

impl StartError {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Failed { step, source }
    }

    /// As a refusal with its code, for receipts.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::ProgramChanged { .. } => Refusal::new(Code::ProgramChanged, self.to_string()),
            Self::Failed { step, source } => {
                Refusal::new(Code::StartFailed, format!("cannot {step}: {source}"))
            }
            Self::Busy { .. } => Refusal::new(Code::SandboxBusy, self.to_string()),
            Self::Unknown { .. } => Refusal::new(Code::SandboxUnknown, self.to_string()),
            Self::Full { why } => {
                let fix = "on the node, `lictor agent sandbox ls` shows them and `rm NAME` makes room";
                Refusal::new(Code::SandboxLimit, format!("{why}; {fix}"))
            }
            Self::AlreadyStarted => Refusal::new(Code::StartFailed, self.to_string()),
        }
    }
}

/// Why nothing could be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Nothing of it is left: the machine was restarted, or the job has ended.
    #[error("nothing of the job is left")]
    Gone,
    /// The system refused.
    #[error("cannot take up what was left")]
    Io(#[from] io::Error),
}
