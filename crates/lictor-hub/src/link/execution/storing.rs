//! How output gets into the store, and what happens while the store fails.

use std::sync::Arc;
use std::time::Duration;

use lictor_proto::agent::{Ack, Request};
use lictor_proto::api::LogStored;
use tokio::time::Instant;

use super::Execution;
use crate::app::Error;
use crate::link::NodeLink;
use crate::relay::Chunk;
use crate::store::ExecutionKey;

/// Between two tries of what the store did not take.
pub(super) const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LAST: Duration = Duration::from_secs(5);

impl Execution {
    /// Stores what waits to be stored, and tells the node. What could not be stored goes on waiting.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        let Some(upto) = self.pending.last().map(|c| c.after.at) else {
            return Ok(());
        };
        if let Err(e) = self.shelf.put(self.pending.clone()).await {
            self.flush_at = Instant::now() + self.again;
            self.again = (self.again * 2).min(AGAIN_LAST);
            return Err(e);
        }
        self.again = AGAIN_FIRST;
        self.settled(upto);
        if let Some(job) = self.job {
            self.link.tell(Request::Ack(Ack::Output { job, upto }));
        }
        Ok(())
    }

    /// Everything that waited is stored.
    pub(super) fn settled(&mut self, upto: u64) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.live.stored(upto);
        self.stored = self.stored.max(Some(upto));
    }

    /// Stores what waits before more may wait. What the store has not taken by the end of the link, or never takes,
    /// is given up: the node keeps it, and the end of the log brings it.
    pub(super) async fn make_room(&mut self) {
        while let Err(e) = self.flush().await {
            tracing::warn!(job = %self.live.key.job_id, error = %e.chain(), "output is not stored yet");
            let pause = tokio::time::sleep_until(self.flush_at);
            if !e.is_passing() || self.link.stop.run_until_cancelled(pause).await.is_none() {
                self.whole = false;
                self.pending.clear();
                self.pending_bytes = 0;
                self.live.stored(u64::MAX);
                return;
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
