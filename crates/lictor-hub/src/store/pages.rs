//! Jobs, page by page.

use lictor_proto::api::ExecutionState;
use lictor_proto::{JobId, Name, NodeId, Timestamp, limits};

use super::{ExecutionRow, JobRow};

/// Where a page of jobs starts: after this one, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCursor {
    /// When that job was taken.
    pub created_at: Timestamp,
    /// That job.
    pub job_id: JobId,
}

/// Jobs of a kind of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// Schedules.
    Schedules,
    /// Firings of this schedule.
    FiringsOf(JobId),
}

/// A page ends behind the job with which it has more than this.
pub const PAGE_BYTES: usize = 8 * limits::ENVELOPE;

/// Jobs, newest first, each with its executions.
#[derive(Debug, Clone, Default)]
pub struct JobPage {
    /// They.
    pub jobs: Vec<(JobRow, Vec<ExecutionRow>)>,
    /// Where the next page starts; `None` only where no more are there. It may be empty.
    pub next: Option<JobCursor>,
}

/// Which jobs.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// With an execution in this state.
    pub state: Option<ExecutionState>,
    /// On this node.
    pub node: Option<NodeId>,
    /// Of this operator.
    pub operator: Option<Name>,
    /// Schedules, or what was fired of one; all jobs otherwise.
    pub listed: Option<Listed>,
    /// Page start.
    pub after: Option<JobCursor>,
    /// Most jobs of a page.
    pub limit: u32,
}

impl JobCursor {
    /// Behind this job.
    #[must_use]
    pub fn behind(job: &JobRow) -> Self {
        Self {
            created_at: job.created_at,
            job_id: job.job_id.clone(),
        }
    }
}
