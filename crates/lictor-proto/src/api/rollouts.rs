//! Rollouts: how a hub spreads one job over its nodes. Nothing here is signed, and nothing here is authority: a hub that
//! ignores it all can begin the job everywhere at once, unless the law demands a release on each node.

use serde::{Deserialize, Serialize};

use crate::agent::Wire;
use crate::ids::{JobId, NodeId};
use crate::limits;
use crate::time::Timestamp;

/// `POST /api/v1/rollouts`: a signed job, and how it is to be spread.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRollout {
    /// The signed job.
    pub job: Wire,
    /// How.
    pub plan: RolloutPlan,
}

/// How a job is spread over its nodes.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutPlan {
    /// The job's nodes, each in one batch, in the order in which they begin.
    pub batches: Vec<Vec<NodeId>>,
    /// How many may be at it at once, at least 1; `null` for a whole batch.
    pub concurrency: Option<u32>,
    /// How long to wait after the first batch, in milliseconds.
    pub pause_ms: u64,
    /// Stop when so many have not succeeded, at least 1.
    pub max_failures: u32,
}

impl RolloutPlan {
    /// Holds it against the nodes that the job is signed for, which are sorted.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(&self, nodes: &[NodeId]) -> Result<(), &'static str> {
        let mut planned: Vec<&NodeId> = self.batches.iter().flatten().collect();
        planned.sort();
        if self.batches.iter().any(Vec::is_empty) {
            return Err("a batch is empty");
        }
        if !planned.into_iter().eq(nodes) {
            return Err("the batches must have each of the job's nodes once, and no other");
        }
        if self.concurrency == Some(0) || self.max_failures == 0 {
            return Err("concurrency and max_failures are at least 1");
        }
        if u128::from(self.pause_ms) > limits::VALIDITY.as_millis() {
            return Err("pause_ms is at most 30 days");
        }
        Ok(())
    }
}

/// How a rollout stands.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// A batch is at it.
    Running,
    /// The first batch has ended well enough; the next one waits.
    Pausing,
    /// Too many have failed; what has not begun waits for somebody.
    Stopped,
    /// All have begun.
    Ended,
}

impl RolloutState {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        }
    }
}

/// A rollout, as its hub sees it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// The job.
    pub job_id: JobId,
    /// How it is spread.
    pub plan: RolloutPlan,
    /// How it stands.
    pub state: RolloutState,
    /// The batch that is at it, from 1 on.
    pub batch: u32,
    /// How many have not succeeded so far.
    pub failed: u32,
    /// How many of those were there when it was continued, and count no more.
    pub forgiven: u32,
    /// While it pauses: until when.
    pub resumes_at: Option<Timestamp>,
    /// Why it stopped, for people.
    pub message: String,
}
