//! The signed documents that go to a node with a job, while they are in memory.
//!
//! # Invariants
//! - A job that waits has its documents in the store and not in memory, but where it has only just come in.
//! - Of one node, what was read from the store has [`ROOM`] bytes together, or is of one job; and one job's is being read.

use std::collections::HashSet;
use std::sync::Arc;

use lictor_proto::Digest;
use lictor_proto::agent::Wire;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{NodeLink, PeerError};
use crate::app::submit::Along;
use crate::app::{Error, views};
use crate::store::{ExecutionKey, JobRow};

/// Bytes of documents read for the offers of one node: what one offer may have at the most.
const ROOM: u32 = 16 * 1024 * 1024;

/// What is read for the offers of one node.
pub(super) struct Reading {
    /// Who reads, and then waits for room: one at a time.
    turn: Mutex<()>,
    room: Arc<Semaphore>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            turn: Mutex::default(),
            room: Arc::new(Semaphore::new(ROOM as usize)),
        }
    }
}

/// What goes along with a job besides itself.
#[derive(Debug, Default)]
pub struct Signed {
    /// Signed approvals so far.
    pub approvals: Arc<[Wire]>,
    /// Signed releases of the node so far.
    pub releases: Vec<Wire>,
}

/// A job with what goes along with it to one node.
#[derive(Debug)]
pub(super) struct Papers {
    pub(super) job: Arc<JobRow>,
    pub(super) along: Arc<Along>,
    pub(super) signed: Signed,
    /// The signed secrets, where they were read already.
    pub(super) secrets: Option<Vec<Wire>>,
    /// For as long as they are in memory, where they were read for this.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Papers {
    fn bytes(&self) -> usize {
        let signed = self.signed.approvals.iter().chain(&self.signed.releases);
        let all = signed.chain(self.secrets.iter().flatten()).map(String::len);
        self.job.envelope.len() + all.sum::<usize>()
    }

    /// What was passed on: told apart by their digests, so that they need not be kept for it.
    pub(super) fn passed_on(&self) -> HashSet<Digest> {
        let signed = self.signed.approvals.iter().chain(&self.signed.releases);
        signed.map(|wire| Digest::of(wire.as_bytes())).collect()
    }
}

impl NodeLink {
    /// A stored job with all that goes along, read when there is room for it; `None` where it is not stored, or is
    /// nothing that is offered.
    pub(super) async fn papers(&self, key: &ExecutionKey) -> Result<Option<Papers>, PeerError> {
        let unread = |e: Error| PeerError::Store(e.chain());
        let _turn = self.reading.turn.lock().await;
        let stored = self.app.store.papers(key).await.map_err(|e| unread(e.into()))?;
        let Some(stored) = stored else { return Ok(None) };
        let job = views::read_job(&stored.job.envelope).map_err(unread)?;
        if job.fired().is_some() {
            return Ok(None);
        }
        let along = Along::of(&job);
        let mut papers = Papers {
            secrets: Some(self.secrets(&along).await),
            job: Arc::new(stored.job),
            along: Arc::new(along),
            signed: Signed {
                approvals: stored.approvals.into(),
                releases: stored.releases,
            },
            room: None,
        };
        let bytes = u32::try_from(papers.bytes()).unwrap_or(ROOM).min(ROOM);
        let room = self.reading.room.clone().acquire_many_owned(bytes).await;
        papers.room = Some(room.map_err(|_| PeerError::Gone)?);
        Ok(Some(papers))
    }

    /// Bytes of documents that are in memory because they were read for this node's offers.
    #[must_use]
    pub fn bytes_read(&self) -> usize {
        (ROOM as usize).saturating_sub(self.reading.room.available_permits())
    }

    /// The signed secrets of the job. What is not there any more the node asks for in vain, and says so.
    pub(super) async fn secrets(&self, along: &Along) -> Vec<Wire> {
        let mut found = Vec::with_capacity(along.secrets.len());
        for digest in &along.secrets {
            match self.app.store.secret_of(&self.node.org, digest).await {
                Ok(secret) => found.extend(secret),
                Err(e) => tracing::error!(error = %Error::from(e).chain(), "a secret was not read"),
            }
        }
        found
    }
}
