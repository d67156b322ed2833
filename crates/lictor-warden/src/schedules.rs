//! Fires schedules: the node's own clock, with a hub or without one.
//!
//! ```text
//!            past          due: nominal + this node's part of the jitter
//!   ----------|-----x-----------x-----> now
//!                   |           '-- fired, once; or tried again until its time to begin is over
//!                   '-- missed: left out, or superseded by the later one
//! ```
//! `past` is in the journal. It moves on together with the `Taken` of a firing, in one record, and never back.
//!
//! # Invariants
//! - A nominal time at or before `past` is not looked at again, whatever the clock says.
//! - A firing takes the one way that every job takes: verified, judged and journaled anew each time.
//! - No schedule waits for another: each is looked at in a task of its own.

mod firing;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Fired, Missed, Outcome, Schedule};
use lictor_proto::timetable::Timetable;
use lictor_proto::{Code, Digest, Timestamp};

use self::firing::{attempt, give_up, pass, refuse};
use crate::core::Core;
use crate::journal::state::Phase;
use crate::law::Held;
use crate::offer::standing::{end, own};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Between two tries of a firing that cannot begin, at most.
const PAUSE: Duration = Duration::from_secs(10);
/// A time that is first looked at so long after it was due has been missed: the agent did not run, or the machine slept.
const LATE: Duration = Duration::from_secs(60);

/// Missed times are counted so far, for the audit log: a schedule may have one for each second of a week.
const COUNTED: usize = 1000;

/// A schedule as it is kept here.
#[derive(Debug)]
struct Standing {
    schedule: Schedule,
    table: Timetable,
    wire: String,
    /// The jitter of this node.
    offset: Duration,
    /// The law under which it was last looked at whether it is revoked.
    looked: Mutex<Weak<Held>>,
}

/// What one look at the clock finds.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// Nothing that is new.
    Nothing,
    /// Times that are over; the last of them.
    Missed { last: Timestamp, times: usize },
    /// This one is to begin; those before it are over.
    Now { nominal: Timestamp, before: usize },
}

/// A firing that could not begin at once.
#[derive(Debug, Clone)]
struct Pending {
    nominal: Timestamp,
    why: Refusal,
    /// Between the last try and the next, and when that is.
    pause: Duration,
    again: Instant,
}

impl Pending {
    fn new(nominal: Timestamp, why: Refusal) -> Self {
        Self {
            nominal,
            why,
            pause: TICK,
            again: Instant::now(),
        }
    }

    /// Still the same, after another try.
    fn after(self, before: &Self) -> Self {
        let pause = (before.pause * 2).min(PAUSE);
        Self {
            pause,
            again: Instant::now() + pause,
            ..self
        }
    }
}

/// Schedules that are being looked at.
type Busy = Arc<Mutex<HashSet<Digest>>>;

/// Takes a schedule from among the busy ones when its look ends, also by a panic.
struct Turn(Busy, Digest);

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

/// Fires until the warden is gone.
pub(crate) async fn keep(core: Weak<Core>) {
    let mut known: BTreeMap<Digest, Arc<Standing>> = BTreeMap::new();
    let pending: Arc<Mutex<BTreeMap<Digest, Pending>>> = Arc::default();
    let busy = Busy::default();
    loop {
        let Some(held) = core.upgrade() else { return };
        if held.is_closed() {
            return;
        }
        if !held.is_draining() {
            refresh(&held, &mut known);
            // One that ended while its firing was on its way leaves that here.
            lock(&pending).retain(|digest, _| known.contains_key(digest));
            for (digest, standing) in &known {
                if !lock(&busy).insert(*digest) {
                    continue;
                }
                let (core, digest, standing) = (held.clone(), *digest, standing.clone());
                let (turn, pending) = (Turn(busy.clone(), digest), pending.clone());
                held.tasks.spawn(async move {
                    let _turn = turn;
                    let before = lock(&pending).remove(&digest);
                    let left = look(&core, digest, &standing, before).await;
                    if let Some(left) = left {
                        lock(&pending).insert(digest, left);
                    }
                });
            }
        }
        let (closing, woken) = (held.closing.clone(), held.schedules.clone());
        // Nothing here keeps the warden while it only waits.
        drop(held);
        tokio::select! {
            () = closing.cancelled() => return,
            () = woken.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those that the journal has.
fn refresh(core: &Core, known: &mut BTreeMap<Digest, Arc<Standing>>) {
    let state = core.journal.state();
    let stands = |d: &Digest| {
        state
            .job(d)
            .is_some_and(|j| matches!(j.phase, Phase::Standing { .. }))
    };
    known.retain(|digest, _| stands(digest));
    let standing = state
        .jobs()
        .filter(|(d, j)| matches!(j.phase, Phase::Standing { .. }) && !known.contains_key(*d));
    let new: Vec<(Digest, String)> = standing.map(|(d, j)| (*d, j.envelope.clone())).collect();
    drop(state);
    for (digest, wire) in new {
        let read = own(&wire).and_then(|s| Some((s.timetable().ok()?, s)));
        let Some((table, schedule)) = read else {
            tracing::error!(schedule = %digest, "a schedule in the journal cannot be read; it does not fire");
            continue;
        };
        let offset = schedule.offset(&digest, &core.issuer.node_id);
        let standing = Standing {
            schedule,
            table,
            wire,
            offset,
            looked: Mutex::default(),
        };
        known.insert(digest, Arc::new(standing));
    }
}

/// One look at the clock for one schedule; gives the firing that waits to begin.
async fn look(
    core: &Arc<Core>,
    digest: Digest,
    standing: &Standing,
    before: Option<Pending>,
) -> Option<Pending> {
    let now = core.law.current().trust.now(core.now());
    let past = match core.journal.state().job(&digest).map(|j| &j.phase) {
        Some(Phase::Standing { past, .. }) => *past,
        _ => return None,
    };
    // What waits has not been journaled, so `past` is before it.
    let waiting = before.filter(|b| b.nominal > past);
    let from = waiting.as_ref().map_or(past, |w| w.nominal);
    let looked = Look {
        core,
        digest,
        standing,
    };
    if standing.schedule.ends_at <= now {
        looked.end(waiting, from).await;
        return None;
    }
    let due = standing.due(from, now);
    if let Some(why) = standing.revoked(core, now, due != Due::Nothing) {
        looked.end_revoked(waiting, why).await;
        return None;
    }
    match due {
        Due::Nothing => looked.wait(waiting?, now).await,
        Due::Missed { last, times } => {
            looked.replace(waiting).await;
            pass(core, looked.at(last), times).await;
            None
        }
        Due::Now { nominal, before } => {
            looked.replace(waiting).await;
            if before > 0 {
                let until = Timestamp::from_millis(nominal.as_millis().saturating_sub(1));
                pass(core, looked.at(until), before).await;
            }
            attempt(core, standing, looked.at(nominal)).await
        }
    }
}

/// What is looked at.
struct Look<'a> {
    core: &'a Arc<Core>,
    digest: Digest,
    standing: &'a Standing,
}

impl Look<'_> {
    fn at(&self, nominal: Timestamp) -> Fired {
        Fired {
            schedule: self.digest,
            nominal,
        }
    }

    /// A later time has come, or the schedule is over: what waited can begin no more.
    async fn replace(&self, waiting: Option<Pending>) {
        if let Some(waiting) = waiting {
            give_up(self.core, self.standing, self.at(waiting.nominal), waiting.why).await;
        }
    }

    /// It is over by its own end. Where that is not written, the next look tries again.
    async fn end(&self, waiting: Option<Pending>, from: Timestamp) {
        self.replace(waiting).await;
        // Those that the jitter puts after the end among them.
        if let Some((last, times)) = self.standing.unfired(from) {
            pass(self.core, self.at(last), times).await;
        }
        let why = format!("it ended at {}", self.standing.schedule.ends_at);
        let why = Refusal::new(Code::Expired, why);
        let _ = end(self.core, &self.digest, Outcome::Expired, why).await;
    }

    /// It may never fire again.
    async fn end_revoked(&self, waiting: Option<Pending>, why: Refusal) {
        if let Some(waiting) = waiting {
            let fired = self.at(waiting.nominal);
            refuse(self.core, self.standing, fired, Outcome::Denied, why.clone()).await;
        }
        let _ = end(self.core, &self.digest, Outcome::Denied, why).await;
    }

    /// No new time has come: what waits is tried again, when its pause is over and while it may still begin.
    async fn wait(&self, waiting: Pending, now: Timestamp) -> Option<Pending> {
        if self.standing.is_too_late(waiting.nominal, now) {
            self.replace(Some(waiting)).await;
            return None;
        }
        if waiting.again > Instant::now() {
            return Some(waiting);
        }
        let again = attempt(self.core, self.standing, self.at(waiting.nominal)).await;
        again.map(|again| again.after(&waiting))
    }
}

impl Standing {
    /// Why it may never fire again, if so: looked for under each law once, and before each firing. Everything else that a
    /// firing needs is asked at the firing.
    fn revoked(&self, core: &Core, now: Timestamp, fires: bool) -> Option<Refusal> {
        let law = core.law.current();
        let own = Arc::downgrade(&law);
        let mut looked = lock(&self.looked);
        if !fires && Weak::ptr_eq(&looked, &own) {
            return None;
        }
        *looked = own;
        drop(looked);
        law.trust.schedule_is_over(&self.wire, now)
    }

    fn is_too_late(&self, nominal: Timestamp, now: Timestamp) -> bool {
        nominal.plus(self.schedule.window()) <= now
    }

    /// What has come after `past`, up to now.
    fn due(&self, past: Timestamp, now: Timestamp) -> Due {
        let horizon = self.horizon(now);
        let come = now.as_millis().checked_sub(self.offset.as_millis() as u64);
        let come = come.and_then(|upto| self.come(past.max(horizon), Timestamp::from_millis(upto)));
        let Some((nominal, times)) = come else {
            return self.too_old(past, horizon).map_or(Due::Nothing, |last| {
                let times = 1;
                Due::Missed { last, times }
            });
        };
        let is_late = now.since(nominal.plus(self.offset)) > LATE;
        if is_late && self.schedule.missed == Missed::Skip {
            return Due::Missed { last: nominal, times };
        }
        Due::Now {
            nominal,
            before: times - 1,
        }
    }

    /// What has come after `past`, or would have with the jitter, and can begin no more since it has ended: the last, and
    /// how many.
    fn unfired(&self, past: Timestamp) -> Option<(Timestamp, usize)> {
        let horizon = self.horizon(self.schedule.ends_at);
        let counted = self.come(past.max(horizon), self.schedule.ends_at);
        counted.or_else(|| Some((self.too_old(past, horizon)?, 1)))
    }

    /// What is not after this cannot begin any more, however much of it there is: it is not counted time by time.
    fn horizon(&self, now: Timestamp) -> Timestamp {
        let window = self.schedule.window().as_millis() as u64;
        Timestamp::from_millis(now.as_millis().saturating_sub(window))
    }

    /// The horizon, if something has come after `past` and up to it; where nothing came, nothing is said.
    fn too_old(&self, past: Timestamp, horizon: Timestamp) -> Option<Timestamp> {
        let first = self.table.after(past).filter(|t| *t <= horizon);
        first.map(|_| horizon)
    }

    /// The last of its times after this one and up to that, before its end; and how many they are, as far as they are
    /// counted.
    fn come(&self, after: Timestamp, upto: Timestamp) -> Option<(Timestamp, usize)> {
        let before_end = Timestamp::from_millis(self.schedule.ends_at.as_millis().saturating_sub(1));
        let upto = upto.min(before_end);
        let next = |time| self.table.after(time).filter(|next| *next <= upto);
        let mut time = next(after)?;
        let last = self.last(time, upto);
        let mut times = 1;
        while time < last && times < COUNTED {
            time = next(time)?;
            times += 1;
        }
        Some((last, times))
    }

    /// The last of its times up to this one, found by halves: there may be one for each second of a week. `first` is one.
    fn last(&self, first: Timestamp, upto: Timestamp) -> Timestamp {
        let mut last = first;
        let (mut low, mut high) = (first.as_millis(), upto.as_millis());
        // Nothing comes after `high`.
        while low < high {
            let middle = low + (high - low) / 2;
            match self.table.after(Timestamp::from_millis(middle)) {
                Some(next) if next <= upto => (last, low) = (next, next.as_millis()),
                _ => high = middle,
            }
        }
        last
    }
}

#[cfg(test)]
mod tests;
