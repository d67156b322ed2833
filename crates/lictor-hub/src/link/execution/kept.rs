//! What is stored of an execution beyond its live output: kept parts of the log, and results that were refused.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lictor_link::LinkError;
use lictor_proto::agent::{Ack, Finished, LogRange, Request};
use lictor_proto::{Code, Digest, Envelope, limits};
use lictor_trust::profiles::Limits;

use super::storing::Going;
use super::{Execution, STALL};
use crate::app::Error;
use crate::app::objects::SEGMENT;
use crate::link::PeerError;
use crate::relay::splitter::Place;
use crate::relay::{Chunk, Splitter};
use crate::store::{Quarantined, SegmentRow};

/// Kept parts of one log; a node has a head and a tail.
const PARTS: usize = 4;
/// Tries to fetch one part, and the pause between them.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Kept parts on their way into the store.
#[derive(Default)]
pub(super) struct Kept {
    /// Where a part that a polling node brings goes on.
    at: Option<Place>,
    /// Bytes stored so far, which are bounded by what the profile keeps.
    bytes: u64,
}

/// Whether everything is stored that the node kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// All that there is and may be.
    Stored,
    /// The node has more, which did not come through: it is to say everything again.
    Missing,
}

/// Why a part was not fetched.
enum Unfetched {
    /// The node does not have it.
    Gone(String),
    /// It may come in a moment.
    Failed(String),
    /// It does not come this way: a polling node brings it.
    NotHere,
}

impl From<PeerError> for Unfetched {
    fn from(e: PeerError) -> Self {
        match e {
            PeerError::Link(LinkError::Protocol(why)) => Self::Gone(why),
            PeerError::Unsupported => Self::NotHere,
            e => Self::Failed(e.to_string()),
        }
    }
}

impl From<Error> for Unfetched {
    fn from(e: Error) -> Self {
        if e.is_passing() {
            Self::Failed(e.chain())
        } else {
            Self::Gone(e.chain())
        }
    }
}

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
        let store = &self.link.app.store;
        let kept = self
            .shelf
            .patiently(|| async { Ok(store.quarantine(refused.clone()).await?) });
        if kept.await? {
            let ack = Ack::Result {
                job: finished.job,
                receipt: digest,
            };
            self.link.tell(Request::Ack(ack));
        }
        Ok(())
    }

    /// Whether the node may have kept something of the log that is neither stored nor in hand.
    pub(super) fn lacks(&self, finished: &Finished) -> bool {
        let going = self.going.as_ref().map(Going::upto);
        let upto = self
            .pending
            .last()
            .map(|c| c.after.at)
            .max(going)
            .max(self.stored);
        !self.whole || finished.kept.iter().any(|r| r.to > upto.unwrap_or(0))
    }

    /// Stores what the node kept of the log and the hub has not stored: the end of the head, and the tail.
    pub(super) async fn fetch_kept(&mut self, finished: &Finished, packed: Option<&SegmentRow>) -> Rest {
        let mut rest = Rest::Stored;
        if !self.lacks(finished) {
            return rest;
        }
        for range in finished.kept.iter().take(PARTS) {
            if !self.try_to_fetch(&finished.job, range, packed).await {
                rest = Rest::Missing;
            }
        }
        rest
    }

    /// Whether nothing more can be had of a part.
    async fn try_to_fetch(&mut self, job: &Digest, range: &LogRange, packed: Option<&SegmentRow>) -> bool {
        for _ in 0..TRIES {
            let why = match self.fetch_part(job, range, packed).await {
                Ok(()) => return true,
                Err(Unfetched::NotHere) => return false,
                Err(Unfetched::Gone(why)) => {
                    tracing::warn!(job = %self.live.key.job_id, why, "a kept part of the log cannot be had");
                    return true;
                }
                Err(Unfetched::Failed(why)) => why,
            };
            tracing::warn!(job = %self.live.key.job_id, why, "a kept part of the log was not fetched");
            let pause = self.link.stop.run_until_cancelled(tokio::time::sleep(PAUSE));
            if pause.await.is_none() {
                break;
            }
        }
        false
    }

    /// Stores what of a kept part is not stored yet.
    async fn fetch_part(
        &mut self,
        job: &Digest,
        range: &LogRange,
        packed: Option<&SegmentRow>,
    ) -> Result<(), Unfetched> {
        let mut from = self.shelf.patiently(|| self.shelf.covered(range.from)).await?;
        if let Some(packed) = packed.filter(|p| (p.from..p.to).contains(&from)) {
            from = packed.to;
        }
        if from >= range.to {
            return Ok(());
        }
        self.fetch(job, range, from).await
    }

    /// Stores a kept part from `from` on. It is read from its start, the one place where the node says how far each
    /// stream had come; without that, readers could not tell how much is missing before it.
    async fn fetch(&mut self, job: &Digest, range: &LogRange, from: u64) -> Result<(), Unfetched> {
        let mut log = self.link.peer.output(job, range.from).await?;
        let mut splitter = Splitter::at(Place {
            at: range.from,
            stdout: range.stdout_at,
            stderr: range.stderr_at,
        });
        let mut stretch: Vec<Chunk> = Vec::new();
        while splitter.place().at < range.to {
            let piece = tokio::time::timeout(STALL, log.next()).await;
            let piece = piece.map_err(|_| Unfetched::Failed("the node's log stalled".to_owned()))?;
            let Some(piece) = piece else { break };
            let chunks = splitter.push(piece?);
            let chunks = chunks.map_err(|e| Unfetched::Gone(e.to_string()))?;
            let new = chunks.iter().filter_map(|c| c.from_position(from));
            for chunk in new.filter(|c| c.start.at < range.to) {
                let joins = stretch.last().is_none_or(|p| p.after.at == chunk.start.at);
                let bytes: usize = stretch.iter().map(Chunk::len).sum();
                if !joins || bytes >= SEGMENT {
                    self.put_kept(std::mem::take(&mut stretch)).await?;
                }
                stretch.push(chunk);
            }
        }
        Ok(self.put_kept(stretch).await?)
    }

    /// Stores a piece of a kept part that a polling node brings; says where the part goes on.
    pub(super) async fn take_kept(&mut self, place: Place, frames: Bytes) -> Result<u64, Error> {
        // Of a part that goes on it is known where each stream stands; the node says it for the part's start only.
        let start = self.kept.at.filter(|k| k.at == place.at).unwrap_or(place);
        let mut splitter = Splitter::at(start);
        let chunks = splitter
            .push(frames)
            .map_err(|e| Error::Internal(format!("the node sent no frames: {e}")))?;
        for chunk in chunks {
            self.put_kept(vec![chunk]).await?;
        }
        self.kept.at = Some(splitter.place());
        Ok(splitter.place().at)
    }

    async fn put_kept(&mut self, stretch: Vec<Chunk>) -> Result<(), Error> {
        let bytes: usize = stretch.iter().map(Chunk::len).sum();
        self.kept.bytes += bytes as u64;
        let keep = self.keep.unwrap_or_else(|| Limits::default().keep);
        // Frames have heads, and a part may come twice.
        if self.kept.bytes > keep.saturating_mul(2) + SEGMENT as u64 {
            return Err(Error::Internal(
                "the node keeps more than its profile lets it".to_owned(),
            ));
        }
        self.shelf.patiently(|| self.shelf.put(stretch.clone())).await
    }
}
