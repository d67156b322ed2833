//! One execution while somebody works on it or watches it: its followers, and the part of its log not stored yet.
//!
//! # Invariants
//! - Nothing is sent while the lock is held.
//! - A follower's queue is bounded. One that cannot keep up is marked as lagging and reads what is stored when
//!   it comes back; only for a job whose profile says `throttle` does the relay wait, at most [`STALL`], and then
//!   it lets that follower go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::doc::Job;
use lictor_trust::Verified;
use lictor_trust::profiles::Overflow;
use tokio::sync::{Notify, mpsc};

use super::chunk::Chunk;
use super::splitter::Place;
use crate::store::ExecutionKey;

/// Chunks and events that wait for one follower. A chunk is at most one link frame beyond an output frame.
const QUEUE: usize = 32;
/// What somebody who follows many executions at once has room for in each, at the least: a start, a few words, an end.
const SHORT_QUEUE: usize = 4;
/// How long a throttled job waits for a follower.
pub const STALL: Duration = Duration::from_secs(10);

/// What a follower gets.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Output.
    Chunk(Chunk),
    /// A change.
    Event(Arc<StreamEvent>),
}

/// The relay's end of a follower.
#[derive(Debug)]
struct Slot {
    queue: mpsc::Sender<Item>,
    shared: Arc<Shared>,
}

/// What relay and follower share besides the queue.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    lagging: AtomicBool,
    wake: Notify,
}

impl Shared {
    /// Whether something was skipped; asking clears it.
    pub(crate) fn take_lag(&self) -> bool {
        self.lagging.swap(false, Ordering::AcqRel)
    }

    /// Returns when something was skipped.
    pub(crate) async fn lagged(&self) {
        self.wake.notified().await;
    }

    fn skip(&self) {
        self.lagging.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// The follower's end.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) queue: mpsc::Receiver<Item>,
    pub(crate) shared: Arc<Shared>,
}

/// An execution that is worked on or watched.
#[derive(Debug)]
pub struct Live {
    /// Which.
    pub key: ExecutionKey,
    inner: Mutex<Inner>,
    /// Its node has only just taken it.
    fresh: AtomicBool,
    /// The job, where it was checked when it came and has not had to wait since.
    admitted: Mutex<Option<Arc<Verified<Job>>>>,
}

#[derive(Debug, Default)]
struct Inner {
    followers: Vec<Arc<Slot>>,
    place: Place,
    /// Chunks that will be stored and are not yet, contiguous.
    pending: Vec<Chunk>,
    last: Option<Arc<StreamEvent>>,
}

/// What a follower needs to go on from what is stored.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) pending: Vec<Chunk>,
    pub(crate) last: Option<Arc<StreamEvent>>,
}

impl Live {
    fn new(key: ExecutionKey) -> Arc<Self> {
        Arc::new(Self {
            key,
            inner: Mutex::default(),
            fresh: AtomicBool::new(false),
            admitted: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on, everything, for somebody who follows so many executions at once: together they have room for
    /// little more than one has.
    pub(crate) fn subscribe(&self, together: usize) -> Subscription {
        let (queue, items) = mpsc::channel((QUEUE / together.max(1)).max(SHORT_QUEUE));
        let shared = Arc::new(Shared::default());
        let slot = Slot {
            queue,
            shared: shared.clone(),
        };
        let mut inner = self.lock();
        inner.followers.retain(|s| !s.queue.is_closed());
        inner.followers.push(Arc::new(slot));
        Subscription { queue: items, shared }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            pending: inner.pending.clone(),
            last: inner.last.clone(),
        }
    }

    /// Makes every follower read what is stored: something may have happened before they came.
    pub(crate) fn resync(&self) {
        let slots = self.lock().followers.clone();
        for slot in slots {
            slot.shared.skip();
        }
    }

    fn admission(&self) -> MutexGuard<'_, Option<Arc<Verified<Job>>>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job was checked.
    pub(crate) fn admit(&self, job: &Arc<Verified<Job>>) {
        *self.admission() = Some(job.clone());
    }

    /// The job waits: it is not kept in memory for its end, and is checked then.
    pub(crate) fn forget(&self) {
        *self.admission() = None;
    }

    /// The job, if exactly this envelope was checked before and is still in memory.
    #[must_use]
    pub fn admitted(&self, wire: &str) -> Option<Arc<Verified<Job>>> {
        let admitted = self.admission();
        admitted.as_ref().filter(|job| job.wire() == wire).cloned()
    }

    /// The node took it, and had not seen it before: no output of it can have been stored.
    pub(crate) fn begin(&self) {
        self.fresh.store(true, Ordering::Release);
    }

    /// Whether nothing can be stored yet. Said once: whoever asks first begins the log.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.swap(false, Ordering::AcqRel) && self.lock().place == Place::default()
    }

    /// Where the relayed log ends.
    pub(crate) fn place(&self) -> Place {
        self.lock().place
    }

    /// The log goes on from here: what is before is stored, or was dropped by the node.
    pub(crate) fn resume(&self, place: Place) {
        let mut inner = self.lock();
        if inner.place.at < place.at {
            inner.place = place;
        }
    }

    /// Everything before this position is stored now.
    pub(crate) fn stored(&self, upto: u64) {
        self.lock().pending.retain(|c| c.after.at > upto);
    }

    /// Relays whole frames.
    pub(crate) async fn output(&self, chunk: Chunk, keep: bool, overflow: Overflow) {
        let slots = {
            let mut inner = self.lock();
            inner.place = chunk.after;
            if keep {
                inner.pending.push(chunk.clone());
            }
            inner.followers.clone()
        };
        for slot in slots {
            self.send(&slot, Item::Chunk(chunk.clone()), overflow).await;
        }
    }

    /// Relays a change; it waits for nobody.
    pub(crate) async fn event(&self, event: StreamEvent) {
        let event = Arc::new(event);
        for slot in self.note(&event) {
            self.send(&slot, Item::Event(event.clone()), Overflow::Drop).await;
        }
    }

    /// The last event, where more is stored than was relayed: followers come to it after they have read that.
    pub(crate) fn end(&self, event: StreamEvent) {
        self.note(&Arc::new(event));
        self.resync();
    }

    /// Takes note of a change; says who is to hear of it.
    fn note(&self, event: &Arc<StreamEvent>) -> Vec<Arc<Slot>> {
        let mut inner = self.lock();
        let ended = matches!(inner.last.as_deref(), Some(StreamEvent::Receipt { .. }));
        let runs = inner.last.as_deref().and_then(state) == Some(ExecutionState::Running);
        // A node may say that it has started before its answer to the offer has been dealt with.
        if (ended || runs) && state(event) == Some(ExecutionState::Leased) {
            return Vec::new();
        }
        if !ended && !matches!(**event, StreamEvent::Ask { .. }) {
            inner.last = Some(event.clone());
        }
        inner.followers.clone()
    }

    async fn send(&self, slot: &Arc<Slot>, item: Item, overflow: Overflow) {
        if slot.shared.lagging.load(Ordering::Acquire) {
            return;
        }
        match (slot.queue.try_send(item), overflow) {
            (Ok(()), _) => {}
            (Err(mpsc::error::TrySendError::Closed(_)), _) => self.let_go(slot),
            (Err(mpsc::error::TrySendError::Full(_)), Overflow::Drop) => {
                metrics::counter!("lictor_hub_followers_lagged_total").increment(1);
                slot.shared.skip();
            }
            (Err(mpsc::error::TrySendError::Full(item)), Overflow::Throttle) => {
                let sent = tokio::time::timeout(STALL, slot.queue.send(item)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    metrics::counter!("lictor_hub_followers_evicted_total").increment(1);
                    self.let_go(slot);
                }
            }
        }
    }

    /// Its queue closes once it is drained, which ends its stream.
    fn let_go(&self, slot: &Arc<Slot>) {
        self.lock().followers.retain(|s| !Arc::ptr_eq(s, slot));
    }
}

/// All live executions. An entry lives as long as somebody holds it.
#[derive(Debug, Default)]
pub struct LiveBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<ExecutionKey, Weak<Live>>,
    sweep_at: usize,
}

impl LiveBook {
    /// The execution, made live if it is not.
    pub fn enter(&self, key: &ExecutionKey) -> Arc<Live> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = book.entries.get(key).and_then(Weak::upgrade) {
            return live;
        }
        if book.entries.len() >= book.sweep_at {
            book.entries.retain(|_, live| live.strong_count() > 0);
            book.sweep_at = (book.entries.len() * 2).max(1024);
        }
        let live = Live::new(key.clone());
        book.entries.insert(key.clone(), Arc::downgrade(&live));
        live
    }

    /// The execution, if anybody holds it.
    pub fn get(&self, key: &ExecutionKey) -> Option<Arc<Live>> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.entries.get(key).and_then(Weak::upgrade)
    }
}

/// The state that an event tells of.
fn state(event: &StreamEvent) -> Option<ExecutionState> {
    match event {
        StreamEvent::State { state, .. } => Some(*state),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lictor_proto::frame::{Frame, FrameKind};
    use lictor_proto::{Digest, JobId, NodeId, OrgId, Timestamp};
    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

    use super::super::Splitter;
    use super::*;

    fn live() -> Arc<Live> {
        let org = OrgId::from_root(&Digest::of(b"root"));
        Live::new(ExecutionKey {
            node_id: NodeId::derive(&org, &[3; 32]),
            job_id: JobId::from_digest(&Digest::of(b"job")),
            org,
        })
    }

    /// Frames of one byte each.
    fn chunks(n: usize) -> Vec<Chunk> {
        let frame = |at: usize| Frame {
            kind: FrameKind::Stdout,
            time: Timestamp::default(),
            at: at as u64,
            payload: Bytes::from_static(b"x"),
        };
        let mut splitter = Splitter::at(Place::default());
        let each = (0..n).map(|at| splitter.push(Bytes::from(frame(at).encode())));
        each.flat_map(|c| c.expect("a frame")).collect()
    }

    /// What a counter says; nothing was counted yet when it is not there.
    fn counted(recorder: &PrometheusRecorder, counter: &str) -> u64 {
        let text = recorder.handle().render();
        let value = text
            .lines()
            .find_map(|l| l.strip_prefix(counter)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    const LAGGED: &str = "lictor_hub_followers_lagged_total";
    const EVICTED: &str = "lictor_hub_followers_evicted_total";

    #[tokio::test]
    async fn a_follower_that_lags_is_counted_once_until_it_has_caught_up() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _here = metrics::set_default_local_recorder(&recorder);
        let live = live();
        let mut slow = live.subscribe(1);
        for chunk in chunks(QUEUE + 5) {
            live.output(chunk, false, Overflow::Drop).await;
        }
        assert_eq!(
            counted(&recorder, LAGGED),
            1,
            "not once more for each piece that it missed"
        );
        while slow.queue.try_recv().is_ok() {}
        assert!(slow.shared.take_lag(), "it is told");
        for chunk in chunks(QUEUE + 1) {
            live.output(chunk, false, Overflow::Drop).await;
        }
        assert_eq!((counted(&recorder, LAGGED), counted(&recorder, EVICTED)), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_job_waits_for_a_follower_so_long_and_then_lets_it_go() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _here = metrics::set_default_local_recorder(&recorder);
        let live = live();
        let mut stuck = live.subscribe(1);
        let began = tokio::time::Instant::now();
        for chunk in chunks(QUEUE + 5) {
            live.output(chunk, false, Overflow::Throttle).await;
        }
        assert_eq!(began.elapsed(), STALL, "once, not for each piece");
        assert_eq!((counted(&recorder, LAGGED), counted(&recorder, EVICTED)), (0, 1));
        let mut got = 0;
        while stuck.queue.recv().await.is_some() {
            got += 1;
        }
        assert_eq!(got, QUEUE, "what it had is there, then its stream ends");
    }
}
