//! How output gets into the store, and what happens while the store fails.
//!
//! ```text
//!   read --> pending (up to a segment) --> going: packed, synced, committed --> acknowledged
//! ```
//!
//! One stretch goes while the next one gathers: a disk that syncs does not hold up what is relayed.

use std::sync::Arc;
use std::time::Duration;

use lictor_proto::agent::{Ack, Request};
use lictor_proto::api::LogStored;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Execution;
use crate::app::Error;
use crate::link::NodeLink;
use crate::relay::Chunk;
use crate::store::ExecutionKey;

/// Between two tries of what the store did not take.
pub(super) const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LAST: Duration = Duration::from_secs(5);

/// A stretch of the log on its way into the store. The next one waits for its end, so they arrive in order.
pub(super) struct Going {
    chunks: Vec<Chunk>,
    upto: u64,
    /// `None` when it failed, and is to be tried again.
    put: Option<JoinHandle<Result<(), Error>>>,
}

impl Going {
    /// Where it ends.
    pub(super) fn upto(&self) -> u64 {
        self.upto
    }

    /// Whether it failed.
    pub(super) fn has_failed(&self) -> bool {
        self.put.is_none()
    }
}

/// How what is on its way ends; never, while nothing is. May be dropped and called again.
pub(super) async fn end_of(going: &mut Option<Going>) -> Result<(), Error> {
    let Some(Going { put, .. }) = going else {
        return std::future::pending().await;
    };
    let Some(task) = put else {
        return std::future::pending().await;
    };
    let outcome = task.await.map_err(|e| Error::Internal(e.to_string()));
    *put = None;
    outcome.flatten()
}

impl Execution {
    /// Stores what waits to be stored, and tells the node. What could not be stored goes on waiting.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        self.arrive().await?;
        let Some(upto) = self.pending.last().map(|c| c.after.at) else {
            return Ok(());
        };
        let put = self.shelf.put(self.pending.clone()).await;
        self.tried(upto, put)?;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    /// Waits for what is on its way. What fails is tried again by the next call.
    async fn arrive(&mut self) -> Result<(), Error> {
        let outcome = match &self.going {
            None => return Ok(()),
            Some(going) if going.has_failed() => self.shelf.put(going.chunks.clone()).await,
            Some(_) => end_of(&mut self.going).await,
        };
        self.arrived(outcome)
    }

    /// What was on its way has arrived, or waits to be sent again.
    pub(super) fn arrived(&mut self, outcome: Result<(), Error>) -> Result<(), Error> {
        let Some(upto) = self.going.as_ref().map(Going::upto) else {
            return outcome;
        };
        self.tried(upto, outcome)?;
        self.going = None;
        Ok(())
    }

    /// The log is stored as far as `upto`, or is not; then it is tried again after a pause.
    fn tried(&mut self, upto: u64, put: Result<(), Error>) -> Result<(), Error> {
        if put.is_err() {
            self.flush_at = Instant::now() + self.again;
            self.again = (self.again * 2).min(AGAIN_LAST);
            return put;
        }
        self.again = AGAIN_FIRST;
        self.settled(upto);
        if let Some(job) = self.job {
            self.link.tell(Request::Ack(Ack::Output { job, upto }));
        }
        Ok(())
    }

    /// The log is stored as far as this.
    pub(super) fn settled(&mut self, upto: u64) {
        self.live.stored(upto);
        self.stored = self.stored.max(Some(upto));
    }

    /// Waits for what is on its way, and tries it again for as long as that may help and the link lives.
    pub(super) async fn arrive_surely(&mut self) -> Result<(), Error> {
        while let Err(e) = self.arrive().await {
            tracing::warn!(job = %self.live.key.job_id, error = %e.chain(), "output is not stored yet");
            let pause = tokio::time::sleep_until(self.flush_at);
            if !e.is_passing() || self.link.stop.run_until_cancelled(pause).await.is_none() {
                return Err(e);
            }
        }
        Ok(())
    }

    /// Sends what waits on its way, once what went before has arrived. What the store has not taken by the end of the
    /// link, or never takes, is given up: the node keeps it, and the end of the log brings it.
    pub(super) async fn make_room(&mut self) {
        let arrived = self.arrive_surely().await;
        let chunks = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let last = chunks.last().map(|c| c.after.at);
        match (arrived, last) {
            (Ok(()), Some(upto)) => {
                let (shelf, sent) = (self.shelf.clone(), chunks.clone());
                let put = self.link.app.tasks.spawn(async move { shelf.put(sent).await });
                self.going = Some(Going {
                    chunks,
                    upto,
                    put: Some(put),
                });
            }
            (Ok(()), None) => {}
            (Err(_), _) => {
                self.whole = false;
                self.going = None;
                self.live.stored(u64::MAX);
            }
        }
    }

    /// What a polling node is told: how far the log is stored, and where it goes on.
    pub(super) fn log_stored(&self, next: u64) -> LogStored {
        LogStored {
            upto: self.stored.unwrap_or(0),
            next,
        }
    }
}

/// Where the log of one execution is stored.
#[derive(Clone)]
pub(super) struct Shelf {
    pub(super) link: Arc<NodeLink>,
    pub(super) key: ExecutionKey,
}

impl Shelf {
    /// Stores chunks that follow each other as one segment.
    pub(super) async fn put(&self, chunks: Vec<Chunk>) -> Result<(), Error> {
        let app = &self.link.app;
        if let Some(segment) = app.objects.pack(&self.key, chunks).await? {
            app.store.put_segment(&self.key, segment).await?;
        }
        Ok(())
    }

    /// Where the stretch that is stored around this position ends.
    pub(super) async fn covered(&self, from: u64) -> Result<u64, Error> {
        let mut at = from;
        loop {
            let before = at;
            for segment in self.link.app.store.segments(&self.key, at, 64).await? {
                if segment.from > at {
                    return Ok(at);
                }
                at = at.max(segment.to);
            }
            if at == before {
                return Ok(at);
            }
        }
    }

    /// Tries again what failed for a reason that passes, while the link lives.
    pub(super) async fn patiently<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut again = AGAIN_FIRST;
        loop {
            match attempt().await {
                Err(e) if e.is_passing() => {
                    tracing::warn!(job = %self.key.job_id, error = %e.chain(), "the store failed; it is tried again");
                    let pause = tokio::time::sleep(again);
                    if self.link.stop.run_until_cancelled(pause).await.is_none() {
                        return Err(e);
                    }
                    again = (again * 2).min(AGAIN_LAST);
                }
                outcome => return outcome,
            }
        }
    }
}
