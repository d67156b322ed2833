//! What the store keeps of rollouts.

use async_trait::async_trait;
use lictor_proto::api::{ExecutionState, RolloutPlan, RolloutState};
use lictor_proto::code::Refusal;
use lictor_proto::{JobId, NodeId, OrgId, Timestamp};

use super::{Inserted, JobRow, Result};

/// How one job is spread, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRow {
    /// How.
    pub plan: RolloutPlan,
    /// How it stands.
    pub state: RolloutState,
    /// Which batch is at it, from 0 on.
    pub batch: u32,
    /// Failures that count no more, since somebody went on after them.
    pub forgiven: u32,
    /// While it pauses: until when.
    pub resumes_at: Option<Timestamp>,
    /// Why it stopped.
    pub message: String,
}

/// What happens to a rollout.
#[derive(Debug, Clone)]
pub enum Turn {
    /// These of its nodes may begin: what is held there is queued.
    Begin(Vec<NodeId>),
    /// It stands like this now. What is queued on `hold` is held again, and all that is held says why.
    Stands {
        /// How.
        row: RolloutRow,
        /// Nodes that have been let begin and have not taken it.
        hold: Vec<NodeId>,
        /// Why what is held waits.
        why: Refusal,
    },
}

/// Rollouts.
#[async_trait]
pub trait Rollouts: Send + Sync {
    /// A job whose executions are held, and its rollout.
    async fn insert_rollout(
        &self,
        org: &OrgId,
        job: JobRow,
        row: RolloutRow,
        why: Refusal,
    ) -> Result<Inserted>;
    /// The rollout of a job, if it has one.
    async fn rollout(&self, org: &OrgId, job: &JobId) -> Result<Option<RolloutRow>>;
    /// Those that go on by themselves.
    async fn open_rollouts(&self) -> Result<Vec<(OrgId, JobId)>>;
    /// Where the executions of a job stand, by node.
    async fn standing(&self, org: &OrgId, job: &JobId) -> Result<Vec<(NodeId, ExecutionState)>>;
    /// It takes a turn; gives the nodes whose executions are not as they were.
    async fn turn(&self, org: &OrgId, job: &JobId, turn: Turn) -> Result<Vec<NodeId>>;
}
