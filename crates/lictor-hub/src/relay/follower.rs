//! Somebody who watches one execution: everything kept from where they ask, then live, without gap or repeat.
//!
//! ```text
//!   stored segments --> pending head --> live queue --> receipt
//!        ^                                   |
//!        +---------- lagging: read again ----+      what is gone by then becomes one Gap frame
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::doc::{KeptRange, Receipt};
use lictor_proto::frame::{Frame, FrameKind, Gap, Header};
use lictor_proto::{Envelope, NodeId, Timestamp, json, limits};

use tokio_util::sync::CancellationToken;

use super::chunk::Chunk;
use super::live::{Item, Live, Snapshot, Subscription};
use super::splitter::Place;
use crate::app::{App, Error};
use crate::store::Followed;

/// A stream is never silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a follower sees.
#[derive(Debug, Clone)]
pub enum Out {
    /// Whole frames, as they are in the log.
    Frames(Arc<[Bytes]>),
    /// Log bytes that are not there (any more).
    Gap(Gap),
    /// A change.
    Event(Arc<StreamEvent>),
    /// Nothing happened for a while.
    KeepAlive,
}

impl Out {
    /// The frames as bytes, made only where there are none yet.
    #[must_use]
    pub fn into_parts(self) -> Arc<[Bytes]> {
        let (kind, payload) = match self {
            Self::Frames(parts) => return parts,
            Self::Gap(gap) => (FrameKind::Gap, serde_json::to_vec(&gap)),
            Self::Event(event) => (FrameKind::Event, serde_json::to_vec(&*event)),
            Self::KeepAlive => (FrameKind::KeepAlive, Ok(Vec::new())),
        };
        let frame = Frame {
            kind,
            time: Timestamp::now(),
            at: 0,
            payload: payload.unwrap_or_default().into(),
        };
        Arc::new([Bytes::from(frame.encode())])
    }
}

/// What a follower wants.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// From this log position.
    pub from: u64,
    /// Output too, or events only.
    pub output: bool,
    /// Stay for what is to come.
    pub follow: bool,
    /// How many executions the same stream follows.
    pub together: usize,
}

/// The parts of both streams that a receipt covers; all of them, where nothing was left out or nothing has ended.
#[derive(Debug, Default)]
struct Covered([Option<Vec<KeptRange>>; 2]);

impl Covered {
    /// What this receipt says. Nothing of it is verified here: it only chooses what is sent.
    fn by(receipt: &str) -> Self {
        let envelope = Envelope::parse(receipt.as_bytes(), limits::ENVELOPE).ok();
        let receipt: Option<Receipt> = envelope.and_then(|e| json::from_slice(&e.payload).ok());
        Self(receipt.map_or([None, None], |r| {
            [r.stdout, r.stderr].map(|s| s.truncated().then_some(s.kept))
        }))
    }

    fn has(&self, frame: &Header) -> bool {
        let ranges = match frame.kind {
            FrameKind::Stdout => &self.0[0],
            FrameKind::Stderr => &self.0[1],
            _ => return true,
        };
        let end = frame.at + frame.len as u64;
        ranges
            .as_ref()
            .is_none_or(|all| all.iter().any(|r| r.from <= frame.at && end <= r.to))
    }
}

/// One follower of one execution.
pub struct Follower {
    app: Arc<App>,
    live: Arc<Live>,
    subscription: Subscription,
    wish: Wish,
    out: VecDeque<Out>,
    seen: Place,
    /// What is stored must be read before the queue.
    behind: bool,
    /// Where the last segment that was read ends.
    read_to: u64,
    /// Of an execution that has ended, what its receipt covers; `None` until that was asked for.
    kept: Option<Covered>,
    done: bool,
}

impl Follower {
    /// A follower of an execution that the hub knows.
    pub fn new(app: Arc<App>, live: Arc<Live>, wish: Wish) -> Self {
        let subscription = live.subscribe(wish.together);
        Self {
            app,
            live,
            subscription,
            wish,
            out: VecDeque::new(),
            seen: Place::default(),
            behind: true,
            read_to: 0,
            kept: None,
            done: false,
        }
    }

    /// A follower of a job that is being submitted: there is nothing to read back, and these events come first.
    pub fn fresh(app: Arc<App>, live: Arc<Live>, wish: Wish, first: Vec<StreamEvent>) -> Self {
        let mut follower = Self::new(app, live, wish);
        follower.behind = false;
        let first = first.into_iter().map(|event| Out::Event(Arc::new(event)));
        follower.out.extend(first);
        follower
    }

    /// Whose execution it follows.
    pub fn node_id(&self) -> &NodeId {
        &self.live.key.node_id
    }

    /// Cancelled when the hub stops.
    pub fn stop(&self) -> CancellationToken {
        self.app.stop.clone()
    }

    /// What comes next; `None` at the end.
    pub async fn next(&mut self) -> Option<Out> {
        loop {
            if let Some(out) = self.out.pop_front() {
                return Some(out);
            }
            if self.done {
                return None;
            }
            if self.behind {
                self.behind = false;
                if let Err(e) = self.catch_up().await {
                    tracing::warn!(error = %e.chain(), job = %self.live.key.job_id, "a follower's stream ends early");
                    return None;
                }
                continue;
            }
            if !self.wish.follow {
                return None;
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        if self.subscription.queue.is_empty() && self.subscription.shared.take_lag() {
            self.behind = true;
            return;
        }
        let shared = self.subscription.shared.clone();
        tokio::select! {
            biased;
            item = self.subscription.queue.recv() => match item {
                Some(Item::Chunk(chunk)) => self.chunk(&chunk),
                Some(Item::Event(event)) => self.event(event),
                // The relay let go of us.
                None => self.done = true,
            },
            () = shared.lagged() => {}
            () = tokio::time::sleep(KEEP_ALIVE) => self.out.push_back(Out::KeepAlive),
        }
    }

    fn event(&mut self, event: Arc<StreamEvent>) {
        self.done |= is_last(&event);
        self.out.push_back(Out::Event(event));
    }

    fn chunk(&mut self, chunk: &Chunk) {
        let reached = self.reached();
        if !self.wish.output || chunk.after.at <= reached {
            if chunk.after.at == reached {
                // The follower has it; what matters is where the streams stood after it.
                self.seen = chunk.after;
            }
            return;
        }
        if chunk.start.at > reached {
            self.out.push_back(Out::Gap(Gap {
                resume_at: chunk.start.at,
                stdout_at: chunk.start.stdout,
                stderr_at: chunk.start.stderr,
            }));
        }
        let skip = reached.saturating_sub(chunk.start.at);
        self.seen = chunk.after;
        self.out.push_back(Out::Frames(chunk.parts_after(skip)));
    }

    fn reached(&self) -> u64 {
        self.seen.at.max(self.wish.from)
    }

    /// Reads what is stored, then what waits to be, and looks whether it is over.
    ///
    /// The relay is asked before the store: what it had stored by then is found, and what it stores later it has in
    /// hand or sends. The other way round, output that is stored between the two questions would be missed.
    async fn catch_up(&mut self) -> Result<(), Error> {
        let Snapshot { pending, last } = self.live.snapshot();
        if self.wish.output {
            if self.kept.is_none() {
                let followed = self.app.store.followed(&self.live.key).await?;
                let receipt = followed.and_then(|f| f.receipt);
                self.kept = Some(receipt.map_or_else(Covered::default, |r| Covered::by(&r)));
            }
            if self.read_stored().await? {
                // One segment at a time: what was read is sent before more is read.
                self.behind = true;
                return Ok(());
            }
            pending.iter().for_each(|c| self.chunk(c));
        }
        self.state(last).await
    }

    /// Reads the next stored segment, if there is one.
    async fn read_stored(&mut self) -> Result<bool, Error> {
        // Where a follower joins at `from`, the segment before it says where the streams stood there.
        let joining = self.seen.at < self.wish.from;
        let after = self
            .reached()
            .saturating_sub(u64::from(joining))
            .max(self.read_to);
        let segments = self.app.store.segments(&self.live.key, after, 1).await?;
        let Some(segment) = segments.first() else {
            return Ok(false);
        };
        let chunk = self.app.objects.read_segment(segment).await?;
        // Stored as it came, before it was known that the node would not keep it: no digest covers it.
        let kept = self.kept.take().unwrap_or_default();
        let runs = chunk.runs(|frame| kept.has(frame));
        self.kept = Some(kept);
        runs.iter().for_each(|run| self.chunk(run));
        self.read_to = chunk.after.at;
        Ok(true)
    }

    async fn state(&mut self, last: Option<Arc<StreamEvent>>) -> Result<(), Error> {
        if let Some(event) = last {
            self.event(event);
            return Ok(());
        }
        let key = &self.live.key;
        let Some(Followed {
            mut execution,
            ask,
            receipt,
        }) = self.app.store.followed(key).await?
        else {
            return Ok(());
        };
        self.app.say_if_offline(&key.org, &mut execution);
        let state = crate::app::views::state_event(&execution);
        let waits = [ExecutionState::AwaitingApproval, ExecutionState::AwaitingRelease];
        let ask = ask.filter(|_| waits.contains(&execution.state));
        if let Some(receipt) = receipt {
            // Recorded after all of the log was stored, of which the end may not have been there yet.
            if self.wish.output && self.read_stored().await? {
                self.behind = true;
                return Ok(());
            }
            // As it came live: the receipt says everything, and is the last event.
            self.event(Arc::new(StreamEvent::Receipt { receipt }));
            return Ok(());
        }
        self.event(Arc::new(state));
        if let Some(ask) = ask {
            self.out.push_back(Out::Event(Arc::new(StreamEvent::Ask { ask })));
        }
        Ok(())
    }
}

/// A receipt, or the hub's word that none will come.
fn is_last(event: &StreamEvent) -> bool {
    match event {
        StreamEvent::Receipt { .. } => true,
        StreamEvent::State { state, .. } => state.is_final(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_proto::Digest;
    use lictor_proto::doc::StreamSummary;

    const NONE: [&[(u64, u64)]; 2] = [&[], &[]];

    /// A receipt of streams of 100 bytes each, of which these ranges were kept.
    fn receipt(kept: [&[(u64, u64)]; 2]) -> String {
        let vector = include_str!("../../../../docs/protocol/vectors/receipt.json");
        let vector: serde_json::Value = serde_json::from_str(vector).expect("JSON");
        let payload = vector["payload"].as_str().expect("text");
        let mut receipt: Receipt = json::from_slice(payload.as_bytes()).expect("a receipt");
        let stream = |kept: &[(u64, u64)]| StreamSummary {
            bytes: 100,
            sha256: Digest::of(b"all"),
            kept: kept
                .iter()
                .map(|&(from, to)| KeptRange {
                    from,
                    to,
                    sha256: Digest::of(b"part"),
                })
                .collect(),
        };
        [receipt.stdout, receipt.stderr] = kept.map(stream);
        let wire = vector["envelope"].as_str().expect("text");
        let mut envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).expect("an envelope");
        envelope.payload = json::to_vec(&receipt).expect("JSON");
        String::from_utf8(envelope.to_bytes()).expect("UTF-8")
    }

    fn has(covered: &Covered, kind: FrameKind, from: u64, to: u64) -> bool {
        covered.has(&Header {
            kind,
            len: (to - from) as usize,
            time: Timestamp::from_millis(7),
            at: from,
        })
    }

    #[test]
    fn without_a_receipt_everything_is_covered() {
        let nonsense = Covered::by("no receipt");
        for covered in [Covered::default(), nonsense] {
            assert!(has(&covered, FrameKind::Stdout, 0, 100));
            assert!(has(&covered, FrameKind::Stderr, 50, 50));
        }
    }

    #[test]
    fn of_a_stream_that_was_kept_whole_everything_is_covered() {
        let covered = Covered::by(&receipt([&[(0, 60), (60, 100)], &[(0, 10)]]));
        assert!(
            has(&covered, FrameKind::Stdout, 50, 70),
            "over a border of two parts"
        );
        assert!(has(&covered, FrameKind::Stderr, 0, 10));
        assert!(!has(&covered, FrameKind::Stderr, 10, 20), "the other one was not");
    }

    #[test]
    fn of_a_stream_that_was_not_only_frames_inside_a_kept_part_are_covered() {
        let covered = Covered::by(&receipt([&[(0, 10), (90, 100)], &[(0, 100)]]));
        for (from, to) in [(0, 10), (3, 7), (10, 10), (90, 100), (99, 100)] {
            assert!(has(&covered, FrameKind::Stdout, from, to), "{from} to {to}");
        }
        for (from, to) in [(0, 11), (9, 91), (10, 90), (50, 60), (89, 100), (95, 101)] {
            assert!(!has(&covered, FrameKind::Stdout, from, to), "{from} to {to}");
        }
        assert!(
            has(&covered, FrameKind::Stderr, 10, 90),
            "the other one was kept whole"
        );
        assert!(has(&covered, FrameKind::Gap, 50, 60), "no output");
    }

    #[test]
    fn of_a_stream_of_which_nothing_was_kept_nothing_is_covered() {
        let covered = Covered::by(&receipt(NONE));
        assert!(!has(&covered, FrameKind::Stdout, 0, 5));
        assert!(!has(&covered, FrameKind::Stderr, 0, 100));
    }
}
