//! One execution of one node: relays its output, stores what is kept, records its result, acknowledges.
//!
//! ```text
//!   Started --> Output* / Waiting --> [log stream] --> Finished --> receipt relayed --> rest of the log fetched
//!                                                                   --> verified, committed (synced) --> acknowledged
//! ```
//!
//! # Invariants
//! - Output is acknowledged when its segment and its row have survived a power loss, results likewise.
//! - The receipt is relayed after the output that it speaks of, and before anything waits for a disk; only where the
//!   node has kept more than is stored, after that is: whoever has the receipt may read everything.
//! - What is stored is bounded: the first `keep` bytes as they come, and at the end what the node kept beyond.
//! - What could not be stored is tried again while the link lives. Given up, it is not acknowledged: the node keeps it,
//!   and it is fetched at the end.

mod ending;
mod kept;
mod reading;
mod started;
mod storing;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lictor_proto::agent::Finished;
use lictor_proto::api::{LogStored, StartedReport};
use lictor_proto::code::Refusal;
use lictor_proto::{Digest, JobId};
use lictor_trust::profiles::{Limits, Overflow};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::NodeLink;
use crate::app::objects::SEGMENT;
use crate::app::{Error, views};
use crate::relay::splitter::Place;
use crate::relay::{Chunk, Live, Splitter};
use reading::{Read, Reading};
use storing::{Going, Shelf};

/// Parts that wait for the task.
const PARTS: usize = 64;
/// How long the rest of an ended log may keep a result waiting without bringing anything.
const STALL: Duration = Duration::from_secs(30);
/// Output is stored at the latest so long after it came.
const FLUSH: Duration = Duration::from_secs(2);

/// What happens to an execution.
pub(crate) enum Part {
    /// It started.
    Started(StartedReport),
    /// Frames of its log.
    Output {
        /// Whom to acknowledge it to; a polling node needs no acknowledgement.
        job: Option<Digest>,
        at: u64,
        frames: Bytes,
        stored: Option<oneshot::Sender<LogStored>>,
    },
    /// Frames of a kept part of an ended log, only to be stored.
    Kept {
        at: Place,
        frames: Bytes,
        stored: oneshot::Sender<LogStored>,
    },
    /// Its log is to be read from here.
    Waiting(Digest, u64),
    /// It ended.
    Finished(Box<Finished>, Option<oneshot::Sender<Told>>),
}

/// What a polling node is told about its result.
pub(crate) enum Told {
    /// It is stored.
    Stored,
    /// Another one is.
    Conflict,
    /// It is refused.
    Refused(Refusal),
    /// It is stored, but not all that the node keeps of the log: both are to come again.
    Incomplete,
}

/// Starts the task of an execution.
pub(super) fn start(link: &Arc<NodeLink>, job: &JobId) -> mpsc::Sender<Part> {
    let (parts, inbox) = mpsc::channel(PARTS);
    let live = link.app.live.enter(&link.key(job));
    let execution = Execution {
        shelf: Shelf {
            link: link.clone(),
            key: live.key.clone(),
        },
        link: link.clone(),
        live,
        job: None,
        splitter: Splitter::at(Place::default()),
        pending: Vec::new(),
        pending_bytes: 0,
        going: None,
        flush_at: Instant::now(),
        again: storing::AGAIN_FIRST,
        stored: None,
        whole: true,
        keep: None,
        overflow: Overflow::Drop,
        kept: kept::Kept::default(),
        reading: Reading::closed(link.peer.clone()),
    };
    // Not ended with the link: what came is stored, and a result that is here is recorded.
    link.app.tasks.spawn(execution.run(inbox));
    parts
}

struct Execution {
    link: Arc<NodeLink>,
    live: Arc<Live>,
    shelf: Shelf,
    /// The job's digest, once it was said; a polling node acknowledges by itself and needs none.
    job: Option<Digest>,
    splitter: Splitter,
    /// Whole frames to be stored.
    pending: Vec<Chunk>,
    pending_bytes: usize,
    /// Those before them, on their way.
    going: Option<Going>,
    /// When they are stored at the latest.
    flush_at: Instant,
    /// The pause after the next failure.
    again: Duration,
    /// Where the stored log ends; `None` until the store was asked.
    stored: Option<u64>,
    /// Whether everything before that is known to be stored.
    whole: bool,
    /// How much of the log is stored as it comes; `None` until the law was asked.
    keep: Option<u64>,
    overflow: Overflow,
    kept: kept::Kept,
    reading: Reading,
}

enum Next {
    Part(Option<Part>),
    Read(Read),
    Flush,
    Arrived(Result<(), Error>),
}

impl Execution {
    async fn run(mut self, mut inbox: mpsc::Receiver<Part>) {
        loop {
            let outcome = match self.next(&mut inbox).await {
                Next::Part(Some(Part::Finished(finished, recorded))) => {
                    let outcome = self.finish(*finished, recorded).await;
                    self.report(outcome);
                    return;
                }
                Next::Part(Some(part)) => self.take(part).await,
                // The link is gone. What has come is stored; the node says the rest again.
                Next::Part(None) => {
                    let outcome = self.flush().await;
                    self.report(outcome);
                    return;
                }
                Next::Read(read) => self.read(read).await,
                Next::Flush => self.flush().await,
                Next::Arrived(outcome) => self.arrived(outcome),
            };
            self.report(outcome);
        }
    }

    fn report(&self, outcome: Result<(), Error>) {
        if let Err(e) = outcome {
            tracing::error!(job = %self.live.key.job_id, node = %self.live.key.node_id, error = %e.chain(), "execution");
        }
    }

    async fn next(&mut self, inbox: &mut mpsc::Receiver<Part>) -> Next {
        let has_failed = self.going.as_ref().is_some_and(Going::has_failed);
        let (flush_at, waits) = (self.flush_at, has_failed || !self.pending.is_empty());
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(flush_at), if waits => Next::Flush,
            outcome = storing::end_of(&mut self.going) => Next::Arrived(outcome),
            read = self.reading.next() => Next::Read(read),
            part = inbox.recv() => Next::Part(part),
        }
    }

    async fn take(&mut self, part: Part) -> Result<(), Error> {
        match part {
            Part::Started(report) => self.started(report).await,
            Part::Output {
                job,
                at,
                frames,
                stored,
            } => {
                // What is read from there on has these bytes too, and comes in order.
                if self.reading.is_wanted() {
                    return Ok(());
                }
                self.job = self.job.or(job);
                if stored.is_some() {
                    self.terms().await?;
                }
                self.seek(at).await?;
                self.frames(frames).await?;
                if let Some(answer) = stored {
                    self.flush().await?;
                    let _ = answer.send(self.log_stored(self.live.place().at));
                }
                Ok(())
            }
            Part::Kept { at, frames, stored } => {
                self.terms().await?;
                self.seek(self.live.place().at).await?;
                let next = self.take_kept(at, frames).await?;
                let _ = stored.send(self.log_stored(next));
                Ok(())
            }
            Part::Waiting(job, from) => {
                self.job = Some(job);
                self.terms().await?;
                self.open(&job, from).await
            }
            Part::Finished(..) => Ok(()), // taken by `run`
        }
    }

    /// The profile's bounds, asked for when there is more output than a node sends by itself.
    async fn terms(&mut self) -> Result<(), Error> {
        if self.keep.is_some() {
            return Ok(());
        }
        let key = &self.live.key;
        let job = match self.link.app.store.job(&key.org, &key.job_id).await? {
            Some((row, _)) => Some(views::read_job(&row.envelope)?),
            None => None,
        };
        let profile = job
            .as_ref()
            .and_then(|j| self.link.app.orgs.get(&key.org)?.profile(&j.profile));
        let limits = profile.map_or_else(Limits::default, |p| p.limits);
        self.overflow = limits.overflow;
        self.keep = Some(job.as_ref().map_or(limits.keep, |j| j.keeps(limits.keep)));
        Ok(())
    }

    /// Reads the log from there on, unless it is being read.
    async fn open(&mut self, job: &Digest, from: u64) -> Result<(), Error> {
        if !self.reading.is_wanted() {
            self.seek(from).await?;
            self.reading.want(*job, self.splitter.place());
        }
        Ok(())
    }

    async fn read(&mut self, read: Read) -> Result<(), Error> {
        match (read, self.job) {
            (Read::From(place), _) => {
                self.splitter = Splitter::at(place);
                Ok(())
            }
            (Read::Piece(piece), _) => {
                let relayed = self.frames(piece).await;
                if relayed.is_err() {
                    self.reading.close();
                }
                relayed
            }
            (Read::Yielded, Some(job)) => {
                self.reading.want(job, self.splitter.place());
                Ok(())
            }
            (Read::Broken, Some(job)) => {
                self.reading.want_again(job, self.splitter.place());
                Ok(())
            }
            (Read::Yielded | Read::Broken, None) | (Read::Ended, _) => Ok(()),
        }
    }

    /// Makes `at` the log position of the next byte. The first time, finds out what is stored already.
    async fn seek(&mut self, at: u64) -> Result<(), Error> {
        if self.stored.is_none() {
            // Of an execution that its node took a moment ago nothing can be stored.
            let end = if self.live.is_fresh() {
                Place::default()
            } else {
                self.whole = false;
                self.stored_end().await?
            };
            self.live.resume(end);
            self.stored = Some(end.at);
        }
        if self.splitter.place().at != at {
            let known = self.live.place();
            let place = if known.at == at {
                known
            } else {
                Place { at, ..known }
            };
            self.splitter = Splitter::at(place);
        }
        Ok(())
    }

    async fn stored_end(&mut self) -> Result<Place, Error> {
        let mut end = Place::default();
        loop {
            let segments = self.link.app.store.segments(&self.live.key, end.at, 64).await?;
            let Some(last) = segments.last() else {
                return Ok(end);
            };
            let contiguous = segments.iter().take_while(|s| {
                let follows = s.from <= end.at;
                end.at = end.at.max(if follows { s.to } else { end.at });
                follows
            });
            let whole = contiguous.count() == segments.len();
            if segments.len() < 64 || !whole {
                let chunk = self.link.app.objects.read_segment(last).await?;
                return Ok(if chunk.after.at == end.at {
                    chunk.after
                } else {
                    end
                });
            }
        }
    }

    async fn frames(&mut self, piece: Bytes) -> Result<(), Error> {
        let chunks = self
            .splitter
            .push(piece)
            .map_err(|e| Error::Internal(format!("the node sent no frames: {e}")))?;
        for chunk in chunks {
            // What was relayed before, over an earlier link, is not relayed twice.
            if let Some(new) = chunk.from_position(self.live.place().at) {
                self.relay(new).await?;
            }
        }
        Ok(())
    }

    async fn relay(&mut self, chunk: Chunk) -> Result<(), Error> {
        let budget = self.keep.unwrap_or_else(|| Limits::default().keep);
        let keep = chunk.start.at < budget;
        metrics::counter!("lictor_hub_relay_bytes_total").increment(chunk.len() as u64);
        self.live.output(chunk.clone(), keep, self.overflow).await;
        if keep {
            let joins = self.pending.last().is_none_or(|p| p.after.at == chunk.start.at);
            if !joins {
                // A segment is one stretch of the log.
                self.make_room().await;
            }
            if self.pending.is_empty() {
                self.flush_at = Instant::now() + FLUSH;
            }
            self.pending_bytes += chunk.len();
            self.pending.push(chunk);
            if self.pending_bytes >= SEGMENT {
                self.make_room().await;
            }
        }
        Ok(())
    }
}
