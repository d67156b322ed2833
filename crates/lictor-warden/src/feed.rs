//! What the node says on its own: to each feed, everything that is due, in an order that makes sense per job.
//!
//! A feed holds no queue of messages, only the names of jobs about which something may be new, and what it has said
//! about each. So a slow feed costs nothing, and a new feed says everything again that was not acknowledged.
//!
//! ```text
//! per job:  Started -> Output (the first 64 KiB) -> OutputWaiting (when there is more) -> Finished
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, Finished};
use lictor_proto::{Digest, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::Core;
use crate::journal::state::Phase;

/// Output that is sent along by itself, from where it was last acknowledged.
const ALONG: u64 = 64 * 1024;
/// Silence after which a keep-alive is sent.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest wait until a result is told again.
const TELL_AGAIN_LAST: Duration = Duration::from_secs(300);

/// All feeds there are.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Mutex<Vec<Weak<Due>>>);

/// What one feed has to look at.
#[derive(Debug, Default)]
struct Due {
    inner: Mutex<Jobs>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Jobs {
    queue: VecDeque<Digest>,
    queued: HashSet<Digest>,
    again: HashSet<Digest>,
    heartbeat: bool,
    closed: bool,
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Digest) {
        let mut jobs = self.lock();
        if jobs.queued.insert(job) {
            jobs.queue.push_back(job);
        }
        drop(jobs);
        self.notify.notify_one();
    }
}

impl Feeds {
    fn each(&self, f: impl Fn(&Due)) {
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.retain(|weak| weak.upgrade().map(|due| f(&due)).is_some());
    }

    /// Something may be new about a job.
    pub(crate) fn touch(&self, job: Digest) {
        self.each(|due| due.push(job));
    }

    /// Everything about a job is to be said once more.
    pub(crate) fn again(&self, job: Digest) {
        self.each(|due| {
            due.lock().again.insert(job);
            due.push(job);
        });
    }

    /// The law changed: a heartbeat is due.
    pub(crate) fn heartbeat(&self) {
        self.each(|due| {
            due.lock().heartbeat = true;
            due.notify.notify_one();
        });
    }

    /// Nothing more comes.
    pub(crate) fn close(&self) {
        self.each(|due| {
            due.lock().closed = true;
            due.notify.notify_one();
        });
    }

    fn register(&self, due: &Arc<Due>) {
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.push(Arc::downgrade(due));
    }
}

/// One reader of what the node says. Dropping it ends it.
#[derive(Debug)]
pub struct EventFeed {
    core: Arc<Core>,
    due: Arc<Due>,
    told: HashMap<Digest, Told>,
    heartbeat_at: Instant,
}

/// What was said about one job.
#[derive(Debug, Clone, Copy)]
struct Told {
    started: bool,
    finished: bool,
    /// When its end is told once more, unless that is acknowledged by then, and how long after that.
    again: (Instant, Duration),
    waiting: bool,
    /// Output sent up to this log position, and how far it may go along.
    sent: u64,
    along: u64,
}

impl EventFeed {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let due = Arc::new(Due::default());
        core.feeds.register(&due);
        let mut jobs: Vec<(u64, Digest)> = core
            .journal
            .state()
            .jobs()
            .map(|(digest, job)| match &job.phase {
                Phase::Finished { node_seq, .. } => (*node_seq, *digest),
                Phase::Waiting { .. } | Phase::Standing { .. } | Phase::Taken { .. } => (u64::MAX, *digest),
            })
            .collect();
        jobs.sort_unstable();
        let archived = core.archive.jobs().into_iter();
        for job in archived.chain(jobs.into_iter().map(|(_, job)| job)) {
            due.push(job);
        }
        Self {
            core,
            due,
            told: HashMap::new(),
            heartbeat_at: Instant::now(),
        }
    }

    /// The next message; waits for one. `None` when the warden has ended. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Message> {
        let silence = Instant::now() + SILENCE;
        loop {
            if let Some(message) = self.due_now() {
                return Some(message);
            }
            if self.due.lock().closed {
                return None;
            }
            let wake = silence.min(self.heartbeat_at);
            let due = self.due.clone();
            tokio::select! {
                () = due.notify.notified() => {}
                () = tokio::time::sleep_until(wake) => {
                    if wake == silence {
                        return Some(Message::KeepAlive);
                    }
                }
            }
        }
    }

    fn due_now(&mut self) -> Option<Message> {
        if std::mem::take(&mut self.due.lock().heartbeat) || self.heartbeat_at <= Instant::now() {
            self.heartbeat_at = Instant::now() + self.core.config.heartbeat;
            self.forget_what_is_over();
            let heartbeat = Box::new(self.core.heartbeat());
            return Some(Message::Event(Event::Heartbeat(heartbeat)));
        }
        loop {
            let job = {
                let mut jobs = self.due.lock();
                let job = jobs.queue.pop_front()?;
                jobs.queued.remove(&job);
                if jobs.again.remove(&job) {
                    self.told.remove(&job);
                }
                job
            };
            if let Some(message) = self.say(job) {
                // There may be more about it; but others come first.
                self.due.push(job);
                return Some(message);
            }
        }
    }

    /// Nobody touches a job that was acknowledged, so what was told about it would stay for good. What should have been
    /// acknowledged is due again.
    fn forget_what_is_over(&mut self) {
        let (state, archive) = (self.core.journal.state(), &self.core.archive);
        self.told
            .retain(|job, _| state.job(job).is_some() || archive.receipt_of(job).is_some());
        drop(state);
        // A hub that has not stored an end, and lost it, is told it again on the same link too.
        let now = Instant::now();
        for (job, told) in &mut self.told {
            if told.finished && told.again.0 <= now {
                told.finished = false;
                told.again.1 = (told.again.1 * 2).min(TELL_AGAIN_LAST);
                self.due.push(*job);
            }
        }
    }

    /// The next thing to say about a job.
    fn say(&mut self, job: Digest) -> Option<Message> {
        let view = self.view(job);
        let Some(view) = view else {
            self.told.remove(&job);
            return None;
        };
        let told = self.told.entry(job).or_insert_with(|| {
            let along = view.acked + ALONG;
            if let Some(live) = self.core.live.get(&job) {
                live.interested(along);
            }
            Told {
                started: false,
                finished: false,
                again: (Instant::now(), self.core.config.tell_again),
                waiting: false,
                sent: view.acked,
                along,
            }
        });
        if let Some(at) = view.started_at.filter(|_| !told.started) {
            told.started = true;
            let firing = self.core.firing(&job);
            return Some(Message::Event(Event::Started { job, at, firing }));
        }
        if told.sent < view.end && told.sent < told.along {
            let max = usize::try_from(told.along - told.sent).unwrap_or(0);
            if let Some((at, to, frames)) = self.core.output_along(&job, told.sent, max) {
                told.sent = to;
                // Said before the end is looked at again, so that output that comes now is either seen or touched for.
                if let Some(live) = self.core.live.get(&job) {
                    live.interested(to);
                }
                return Some(Message::Output { job, at, frames });
            }
            // A log that cannot be read must not keep the result from being told.
            told.along = told.sent;
            told.waiting = true;
        }
        if told.sent < view.end && !told.waiting {
            told.waiting = true;
            let from = told.sent;
            return Some(Message::Event(Event::OutputWaiting { job, from }));
        }
        if let Some(finished) = view.finished.filter(|_| !told.finished) {
            told.finished = true;
            told.again.0 = Instant::now() + told.again.1;
            return Some(Message::Event(Event::Finished(Box::new(finished))));
        }
        None
    }

    fn view(&self, job: Digest) -> Option<View> {
        // The state first: what is finished there has all of its output.
        let mut view = {
            let state = self.core.journal.state();
            let Some(open) = state.job(&job) else {
                drop(state);
                return self.archived(job);
            };
            let mut view = View {
                acked: open.acked,
                started_at: None,
                end: 0,
                finished: None,
            };
            match &open.phase {
                Phase::Waiting { .. } => return None,
                Phase::Standing { at, .. } => view.started_at = Some(*at),
                Phase::Taken { started, .. } => view.started_at = started.as_ref().map(|(at, _)| *at),
                Phase::Finished {
                    receipt,
                    started_at,
                    log,
                    ..
                } => {
                    view.started_at = *started_at;
                    view.end = log.end;
                    let done = self.told.get(&job).is_some_and(|t| t.finished);
                    view.finished = (!done).then(|| Finished {
                        job,
                        envelope: open.envelope.clone(),
                        receipt: receipt.clone(),
                        log_end: log.end,
                        kept: log.ranges(),
                    });
                }
            }
            view
        };
        if let Some(live) = self.core.live.get(&job) {
            view.started_at = view.started_at.or(live.started_at.get().copied());
            view.end = view.end.max(live.spool.get().map_or(0, |s| s.end()));
        }
        Some(view)
    }
}

impl EventFeed {
    /// What is to be said of a result in the archive: all of it, as of any other.
    fn archived(&self, job: Digest) -> Option<View> {
        let (finished, started_at) = self.core.archive.finished(&job)?;
        let done = self.told.get(&job).is_some_and(|t| t.finished);
        Some(View {
            acked: 0,
            started_at,
            end: finished.log_end,
            finished: (!done).then_some(finished),
        })
    }
}

struct View {
    acked: u64,
    started_at: Option<Timestamp>,
    end: u64,
    finished: Option<Finished>,
}

/// Position of the first byte, position after the last, and the frames.
pub(crate) type Along = (u64, u64, Bytes);
