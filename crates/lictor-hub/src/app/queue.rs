//! How much may wait and be stored: a bound per org and per node, so that one of them cannot fill the hub.
//!
//! The counts are the database's, read every few seconds, plus what was taken since a reading began: a submission costs no
//! query. So the bounds err on the side of refusing: what is taken while it is read may count twice, until the next time.

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
    /// What was taken since the last reading began.
    since: Mutex<HashMap<OrgId, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: u64,
    nodes: HashMap<NodeId, u64>,
    /// Jobs that are stored, whether they wait or not.
    jobs: u64,
}

impl Waiting {
    fn add(&mut self, nodes: &[NodeId]) {
        self.jobs += 1;
        self.total += nodes.len() as u64;
        for node in nodes {
            *self.nodes.entry(node.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, nodes: &[NodeId]) {
        self.jobs = self.jobs.saturating_sub(1);
        self.total = self.total.saturating_sub(nodes.len() as u64);
        for node in nodes {
            if let Some(waits) = self.nodes.get_mut(node) {
                *waits = waits.saturating_sub(1);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.total += other.total;
        for (node, waits) in &other.nodes {
            *self.nodes.entry(node.clone()).or_default() += waits;
        }
    }
}

impl QueueBook {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits, keep_jobs: Option<Duration>) -> Self {
        Self {
            limits,
            keep_jobs,
            waiting: Mutex::default(),
            since: Mutex::default(),
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
        waiting.add(nodes);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.entry(org.clone()).or_default().add(nodes);
        Ok(())
    }

    /// A job that was counted in is refused after all.
    pub fn give_back(&self, org: &OrgId, nodes: &[NodeId]) {
        for book in [&self.waiting, &self.since] {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waiting) = book.get_mut(org) {
                waiting.remove(nodes);
            }
        }
    }

    /// The database's counts are about to be read: what is taken from now on may be missing in them.
    pub fn reading(&self) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes over the database's counts, and what was taken since they began to be read.
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
        let mut book = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        for (org, taken) in since.iter() {
            fresh.entry(org.clone()).or_default().merge(taken);
        }
        *book = fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::limits::OrgLimits;
    use lictor_proto::Digest;

    #[test]
    fn what_is_taken_while_the_counts_are_read_counts_and_what_is_refused_after_all_does_not() {
        let limits = OrgLimits {
            running: 10,
            queued: 2,
            queued_per_node: 10,
            jobs: 10,
        };
        let book = QueueBook::new(Limits::new(limits, HashMap::new()), None);
        let org = OrgId::from_root(&Digest::of(b"root"));
        let node = [NodeId::derive(&org, &[1; 32])];
        book.take(&org, &node).unwrap();
        book.reading();
        book.take(&org, &node).unwrap();
        // The database had the first when it was read, and not yet the second.
        let first = Depth {
            org: org.clone(),
            node_id: node[0].clone(),
            state: ExecutionState::Queued,
            executions: 1,
        };
        book.read(&[first], vec![(org.clone(), 1)]);
        assert!(book.take(&org, &node).is_err(), "two wait");
        book.give_back(&org, &node);
        book.take(&org, &node).unwrap();
        assert!(book.take(&org, &node).is_err());
    }
}
