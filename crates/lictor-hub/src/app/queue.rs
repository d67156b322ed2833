//! How much may wait and be stored: a bound per org and per node, so that one of them cannot fill the hub.
//!
//! The counts are the database's, read every few seconds, plus what was taken since: a submission costs no query.
//! So the bounds are exact at each reading and err on the side of refusing in between.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lictor_proto::api::ExecutionState;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, NodeId, OrgId};

use super::Error;
use super::limits::Limits;
use crate::store::Depth;

/// When somebody whom a full queue refused may come again; it is counted anew in between.
const COUNTED_IN: Duration = Duration::from_secs(5);
/// And somebody whose org has too many jobs stored: what is old is forgotten that often.
const FORGOTTEN_IN: Duration = Duration::from_secs(600);

/// What waits.
#[derive(Debug)]
pub struct QueueBook {
    limits: Limits,
    /// How long ended jobs are kept; `None` is for ever.
    keep_jobs: Option<Duration>,
    waiting: Mutex<HashMap<OrgId, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: u64,
    nodes: HashMap<NodeId, u64>,
    /// Jobs that are stored, whether they wait or not.
    jobs: u64,
}

impl QueueBook {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits, keep_jobs: Option<Duration>) -> Self {
        Self {
            limits,
            keep_jobs,
            waiting: Mutex::default(),
        }
    }

    /// Counts a job's executions in, all or none.
    ///
    /// # Errors
    /// [`Error::Later`] with the limit that is reached; [`Error::Refused`] where waiting helps nobody.
    pub fn take(&self, org: &OrgId, nodes: &[NodeId]) -> Result<(), Error> {
        let limits = self.limits.of(org);
        let mut book = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = book.entry(org.clone()).or_default();
        if waiting.jobs >= limits.jobs {
            let why = format!("{} jobs of this org are stored, as many as may be", waiting.jobs);
            let full = Refusal::new(Code::JobsFull, why);
            return Err(match self.keep_jobs {
                Some(_) => Error::Later(full, FORGOTTEN_IN),
                // None is ever forgotten.
                None => Error::Refused(full),
            });
        }
        if waiting.total + nodes.len() as u64 > limits.queued {
            let (waits, most) = (waiting.total, limits.queued);
            let why = format!("{waits} executions of this org wait, and at most {most} may");
            return Err(Error::Later(Refusal::new(Code::QueueFull, why), COUNTED_IN));
        }
        let full = |n: &&NodeId| {
            waiting
                .nodes
                .get(*n)
                .is_some_and(|w| *w >= limits.queued_per_node)
        };
        if let Some(node) = nodes.iter().find(full) {
            let why = format!(
                "{} executions wait for {node}, as many as may",
                limits.queued_per_node
            );
            return Err(Error::Later(Refusal::new(Code::QueueFull, why), COUNTED_IN));
        }
        waiting.jobs += 1;
        waiting.total += nodes.len() as u64;
        for node in nodes {
            *waiting.nodes.entry(node.clone()).or_default() += 1;
        }
        Ok(())
    }

    /// Takes over the database's counts.
    pub fn read(&self, depths: &[Depth], jobs: Vec<(OrgId, u64)>) {
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
        for (org, stored) in jobs {
            fresh.entry(org).or_default().jobs = stored;
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }
}
