//! What is stored of an execution beyond its live output: kept parts of the log, and results that were refused.

use futures_util::StreamExt as _;
use lictor_proto::agent::{Ack, Finished, LogRange, Request};
use lictor_proto::{Code, Digest, Envelope, limits};

use super::{Execution, PeerError, STALL};
use crate::app::Error;
use crate::app::objects::SEGMENT;
use crate::relay::splitter::Place;
use crate::relay::{Chunk, Splitter};
use crate::store::{Quarantined, SegmentRow};

impl Execution {
    /// Keeps a refused result for whoever looks into it, and tells the node that it need not send it again. What
    /// cannot be kept (bytes without a digest, too many of them) is not acknowledged.
    pub(super) async fn put_aside(&mut self, finished: &Finished, code: Code) -> Result<(), Error> {
        let Ok(receipt) = Envelope::parse(finished.receipt.as_bytes(), limits::ENVELOPE) else {
            return Ok(());
        };
        let digest = receipt.digest();
        let refused = Quarantined {
            key: self.live.key.clone(),
            digest,
            code,
            receipt: finished.receipt.clone(),
            envelope: finished.envelope.clone(),
        };
        if self.link.app.store.quarantine(refused).await? {
            let ack = Ack::Result {
                job: finished.job,
                receipt: digest,
            };
            self.link.tell(Request::Ack(ack));
        }
        Ok(())
    }

    /// What the node kept of the log and the hub has not stored: the end of the head, and the tail.
    pub(super) async fn fetch_kept(
        &mut self,
        finished: &Finished,
        rest: Option<&SegmentRow>,
    ) -> Result<(), Error> {
        let covered = rest.map(|s| s.to).max(self.stored).unwrap_or(0);
        for range in finished.kept.iter().take(4).filter(|r| r.to > covered) {
            if let Err(e) = self.fetch(&finished.job, range, covered).await {
                // The receipt counts for more than a part of the log; readers see a gap.
                tracing::warn!(job = %self.live.key.job_id, error = %e.chain(), "a kept part of the log was not fetched");
            }
        }
        Ok(())
    }

    /// Stores a kept part from `covered` on. It is read from its start, the one place where the node says how far each
    /// stream had come; without that, readers could not tell how much is missing before it.
    async fn fetch(&mut self, job: &Digest, range: &LogRange, covered: u64) -> Result<(), Error> {
        let gone = |e: PeerError| Error::Internal(e.to_string());
        let mut log = self.link.peer.output(job, range.from).await.map_err(gone)?;
        let mut splitter = Splitter::at(Place {
            at: range.from,
            stdout: range.stdout_at,
            stderr: range.stderr_at,
        });
        while splitter.place().at < range.to {
            let piece = tokio::time::timeout(STALL, log.next()).await;
            let piece = piece.map_err(|_| Error::Internal("the node's log stalled".to_owned()))?;
            let Some(piece) = piece else { break };
            let chunks = splitter.push(piece.map_err(gone)?);
            let chunks = chunks.map_err(|e| Error::Internal(e.to_string()))?;
            let new = chunks.iter().filter_map(|c| c.from_position(covered));
            for chunk in new.filter(|c| c.start.at < range.to) {
                self.keep_chunk(chunk).await?;
            }
        }
        let key = self.live.key.clone();
        if let Some(segment) = self.pack().await? {
            self.link.app.store.put_segment(&key, segment).await?;
        }
        Ok(())
    }

    async fn keep_chunk(&mut self, chunk: Chunk) -> Result<(), Error> {
        let key = self.live.key.clone();
        let joins = self.pending.last().is_none_or(|p| p.after.at == chunk.start.at);
        if (!joins || self.pending_bytes >= SEGMENT)
            && let Some(segment) = self.pack().await?
        {
            self.link.app.store.put_segment(&key, segment).await?;
        }
        self.pending_bytes += chunk.len();
        self.pending.push(chunk);
        Ok(())
    }
}
