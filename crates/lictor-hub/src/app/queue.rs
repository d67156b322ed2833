//! How much may wait: a bound per org and per node, so that one of them cannot fill the hub.
//!
//! The counts are the database's, read every few seconds, plus what was taken since: a submission costs no query.
//! So the bounds are exact at each reading and err on the side of refusing in between.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lictor_proto::api::ExecutionState;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, NodeId, OrgId};

use crate::store::Depth;

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Executions of an org that wait.
    pub org: u64,
    /// Executions of a node that wait.
    pub node: u64,
}

/// What waits.
#[derive(Debug)]
pub struct QueueBook {
    limits: QueueLimits,
    waiting: Mutex<HashMap<OrgId, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: u64,
    nodes: HashMap<NodeId, u64>,
}

impl QueueBook {
    /// An empty one.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            waiting: Mutex::default(),
        }
    }

    /// Counts a job's executions in, all or none.
    ///
    /// # Errors
    /// [`Code::Busy`] with the bound that is reached.
    pub fn take(&self, org: &OrgId, nodes: &[NodeId]) -> Result<(), Refusal> {
        let mut book = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = book.entry(org.clone()).or_default();
        if waiting.total + nodes.len() as u64 > self.limits.org {
            let why = format!("{} executions of this org wait already", waiting.total);
            return Err(Refusal::new(Code::Busy, why));
        }
        let full = |n: &&NodeId| waiting.nodes.get(*n).is_some_and(|w| *w >= self.limits.node);
        if let Some(node) = nodes.iter().find(full) {
            let why = format!("{} executions wait for {node} already", self.limits.node);
            return Err(Refusal::new(Code::Busy, why));
        }
        waiting.total += nodes.len() as u64;
        for node in nodes {
            *waiting.nodes.entry(node.clone()).or_default() += 1;
        }
        Ok(())
    }

    /// Takes over the database's counts.
    pub fn read(&self, depths: &[Depth]) {
        let mut fresh: HashMap<OrgId, Waiting> = HashMap::new();
        let waits = |d: &&Depth| {
            use ExecutionState as S;
            matches!(
                d.state,
                S::Queued | S::Held | S::AwaitingApproval | S::AwaitingRelease
            )
        };
        for depth in depths.iter().filter(waits) {
            let org = fresh.entry(depth.org.clone()).or_default();
            org.total += depth.executions;
            *org.nodes.entry(depth.node_id.clone()).or_default() += depth.executions;
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }
}
