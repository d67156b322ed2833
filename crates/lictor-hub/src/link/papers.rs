//! The signed documents that go to a node with a job, while they are in memory.
//!
//! # Invariants
//! - A job that waits has its documents in the store and not in memory, but for the moment until they are stored.
//! - Of one node, what was read from the store has [`ROOM`] bytes together, or is of one job; and one job's is being read.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// Bytes that are in memory, whether there was room for them or not.
    bytes: Arc<AtomicUsize>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            turn: Mutex::default(),
            room: Arc::new(Semaphore::new(ROOM as usize)),
            bytes: Arc::default(),
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

/// Bytes that are counted for as long as they are in memory.
#[derive(Debug)]
struct Weight {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Weight {
    fn new(bytes: usize, all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        Self {
            bytes,
            all: all.clone(),
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A job with what goes along with it to one node.
#[derive(Debug)]
pub(super) struct Papers {
    pub(super) job: Arc<JobRow>,
    pub(super) along: Arc<Along>,
    pub(super) signed: Signed,
    /// The signed secrets, where they were read already.
    secrets: Option<Vec<Wire>>,
    /// Off the count before its room is somebody else's.
    weight: Option<Weight>,
    /// For as long as they are in memory, where they were read for this.
    room: Option<OwnedSemaphorePermit>,
}

impl Papers {
    /// What has come in, or was read for several nodes at once.
    pub(super) fn new(job: &Arc<JobRow>, along: &Arc<Along>, signed: Signed) -> Self {
        Self {
            job: job.clone(),
            along: along.clone(),
            signed,
            secrets: None,
            weight: None,
            room: None,
        }
    }

    /// Counts them among those of their node.
    pub(super) fn count(&mut self, reading: &Reading) {
        self.weight = Some(Weight::new(self.bytes(), &reading.bytes));
    }

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
        let secrets = self.secrets_of(&along).await;
        let signed = Signed {
            approvals: stored.approvals.into(),
            releases: stored.releases,
        };
        let mut papers = Papers {
            secrets: Some(secrets),
            ..Papers::new(&Arc::new(stored.job), &Arc::new(along), signed)
        };
        papers.count(&self.reading);
        let bytes = u32::try_from(papers.bytes()).unwrap_or(ROOM).min(ROOM);
        let room = self.reading.room.clone().acquire_many_owned(bytes).await;
        papers.room = Some(room.map_err(|_| PeerError::Gone)?);
        Ok(Some(papers))
    }

    /// Bytes of documents that are in memory for this node's offers: what was read, what waits for room, and what has only
    /// just come in.
    #[must_use]
    pub fn bytes_in_memory(&self) -> usize {
        self.reading.bytes.load(Ordering::Relaxed)
    }

    /// The signed secrets that go along.
    pub(super) async fn secrets(&self, papers: &Papers) -> Vec<Wire> {
        match &papers.secrets {
            Some(secrets) => secrets.clone(),
            None => self.secrets_of(&papers.along).await,
        }
    }

    /// The signed secrets of the job. What is not there any more the node asks for in vain, and says so.
    async fn secrets_of(&self, along: &Along) -> Vec<Wire> {
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
