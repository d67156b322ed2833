//! What the store forgets, puts aside and counts.

use async_trait::async_trait;
use lictor_proto::agent::Wire;
use lictor_proto::api::ExecutionState;
use lictor_proto::{Code, Digest, NodeId, OrgId, Timestamp};

use super::{ExecutionKey, Result};

/// What is forgotten, put aside and counted.
#[async_trait]
pub trait Retained: Send + Sync {
    /// Forgets what is older, some of it at a time; the files named are no longer needed.
    async fn forget(&self, keep: Keep) -> Result<Forgotten>;
    /// Inputs that no job has needed since, some of them, after that one; they are given to nobody any more.
    async fn idle_blobs(
        &self,
        before: Timestamp,
        after: Option<(OrgId, Digest)>,
    ) -> Result<Vec<(OrgId, Digest)>>;
    /// Forgets inputs whose files are gone, and that nobody has stored again since; gives their number.
    async fn forget_blobs(&self, gone: Vec<(OrgId, Digest)>, before: Timestamp) -> Result<u64>;
    /// Puts a refused result aside; `false` when there are too many of that node.
    async fn quarantine(&self, result: Quarantined) -> Result<bool>;
    /// What is open.
    async fn open(&self) -> Result<Vec<Depth>>;
    /// How many jobs of each org are stored.
    async fn jobs_stored(&self) -> Result<Vec<(OrgId, u64)>>;
    /// Executions that are leased or run; those of schedules stand, and are not at work.
    async fn under_way(&self) -> Result<Vec<ExecutionKey>>;
    /// Whether this is one of them.
    async fn is_under_way(&self, key: &ExecutionKey) -> Result<bool>;
}

/// From when on things are kept; `None` is for ever.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Logs of ended executions.
    pub logs_before: Option<Timestamp>,
    /// Ended jobs, receipts and all.
    pub jobs_before: Option<Timestamp>,
    /// Tokens that expired.
    pub tokens_before: Timestamp,
    /// Refused results.
    pub quarantine_before: Timestamp,
}

/// What was forgotten, and which files go with it.
#[derive(Debug, Clone, Default)]
pub struct Forgotten {
    /// How many things; zero when nothing is left to forget.
    pub rows: u64,
    /// Log objects.
    pub objects: Vec<String>,
}

/// One execution with its newest documents.
#[derive(Debug, Clone)]
pub struct Followed {
    /// It.
    pub execution: super::ExecutionRow,
    /// Its newest ask.
    pub ask: Option<lictor_proto::agent::Wire>,
    /// Its receipt.
    pub receipt: Option<lictor_proto::agent::Wire>,
}

/// A result that was refused.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// Of which execution.
    pub key: ExecutionKey,
    /// Digest of what was sent as a receipt.
    pub digest: Digest,
    /// Why it was refused.
    pub code: Code,
    /// What was sent as a receipt.
    pub receipt: Wire,
    /// What was sent as the job.
    pub envelope: Wire,
}

/// Open executions of one node in one state.
#[derive(Debug, Clone)]
pub struct Depth {
    /// The org.
    pub org: OrgId,
    /// The node.
    pub node_id: NodeId,
    /// The state.
    pub state: ExecutionState,
    /// How many.
    pub executions: u64,
}
