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

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lictor_audit::{Event, EventType};
use lictor_proto::agent::OfferReply;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Fired, FiredWire, Missed, Outcome, Overlap, Schedule};
use lictor_proto::timetable::Timetable;
use lictor_proto::{Code, Digest, Timestamp};

use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::Entry;
use crate::journal::state::Phase;
use crate::law::Held;
use crate::offer::standing::{end, own};
use crate::offer::{Owed, conclude, fire, unacknowledged};
use crate::receipt::End;

/// Between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Between two tries of a firing that cannot begin, at most.
const PAUSE: Duration = Duration::from_secs(10);
/// A time that is first looked at so long after it was due has been missed: the agent did not run, or the machine slept.
const LATE: Duration = Duration::from_secs(60);

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
    let at = |nominal| Fired {
        schedule: digest,
        nominal,
    };
    // What waits has not been journaled, so `past` is before it.
    let waiting = before.filter(|b| b.nominal > past);
    let from = waiting.as_ref().map_or(past, |w| w.nominal);
    if standing.schedule.ends_at <= now {
        if let Some(waiting) = waiting {
            give_up(core, standing, at(waiting.nominal), waiting.why).await;
        }
        // Those that the jitter puts after the end among them.
        if let Some((last, times)) = standing.unfired(from) {
            pass(core, at(last), times).await;
        }
        let why = format!("it ended at {}", standing.schedule.ends_at);
        let why = Refusal::new(Code::Expired, why);
        // Where it is not written, the next look tries again.
        let _ = end(core, &digest, Outcome::Expired, why).await;
        return None;
    }
    let due = standing.due(from, now);
    if let Some(why) = standing.revoked(core, now, due != Due::Nothing) {
        if let Some(waiting) = waiting {
            refuse(core, standing, at(waiting.nominal), Outcome::Denied, why.clone()).await;
        }
        let _ = end(core, &digest, Outcome::Denied, why).await;
        return None;
    }
    match due {
        Due::Nothing => {
            let waiting = waiting?;
            if standing.is_too_late(waiting.nominal, now) {
                give_up(core, standing, at(waiting.nominal), waiting.why).await;
                return None;
            }
            if waiting.again > Instant::now() {
                return Some(waiting);
            }
            let again = attempt(core, standing, at(waiting.nominal)).await;
            again.map(|again| again.after(&waiting))
        }
        Due::Missed { last, times } => {
            if let Some(waiting) = waiting {
                give_up(core, standing, at(waiting.nominal), waiting.why).await;
            }
            pass(core, at(last), times).await;
            None
        }
        Due::Now { nominal, before } => {
            if let Some(waiting) = waiting {
                give_up(core, standing, at(waiting.nominal), waiting.why).await;
            }
            if before > 0 {
                let until = Timestamp::from_millis(nominal.as_millis().saturating_sub(1));
                pass(core, at(until), before).await;
            }
            attempt(core, standing, at(nominal)).await
        }
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
        let come = self.count(past.max(horizon), |next| next.plus(self.offset) <= now);
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
        let counted = self.count(past.max(horizon), |_| true);
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

    /// The last of its times after this one that have come, and how many they are.
    fn count(&self, after: Timestamp, has_come: impl Fn(Timestamp) -> bool) -> Option<(Timestamp, usize)> {
        let mut time = after;
        let mut found: Option<(Timestamp, usize)> = None;
        while let Some(next) = self.table.after(time) {
            if next >= self.schedule.ends_at || !has_come(next) {
                break;
            }
            let times = found.map_or(1, |(_, times)| times + 1);
            (time, found) = (next, Some((next, times)));
        }
        found
    }
}

/// Has a firing begin; what can be decided is decided now, and what cannot waits.
async fn attempt(core: &Arc<Core>, standing: &Standing, fired: Fired) -> Option<Pending> {
    if runs(core, &fired) {
        let why = Refusal::plain(Code::ScheduleOverlap);
        match standing.schedule.overlap {
            Overlap::Skip => {
                refuse(core, standing, fired, Outcome::Denied, why).await;
                return None;
            }
            Overlap::Wait => {
                return Some(Pending::new(fired.nominal, why));
            }
        }
    }
    // A firing may end in a receipt before it looks for a place.
    if let Some(why) = unacknowledged(core) {
        return Some(Pending::new(fired.nominal, why));
    }
    let wire = FiredWire {
        nominal: fired.nominal,
        schedule: standing.wire.clone(),
    };
    match fire(core.clone(), fired.digest(), &wire).await {
        OfferReply::Accepted | OfferReply::Denied(_) => None,
        // It was here before: a journal that was brought back, or a clock.
        OfferReply::Known => {
            pass(core, fired, 1).await;
            None
        }
        OfferReply::Refused(why) => {
            refuse(core, standing, fired, Outcome::Denied, why).await;
            None
        }
        OfferReply::Later(why) => Some(Pending::new(fired.nominal, why)),
        // A firing is not asked about, and reads no input.
        OfferReply::Ask(_) | OfferReply::Wanted { .. } => {
            Some(Pending::new(fired.nominal, Code::Internal.into()))
        }
    }
}

/// Whether another firing of the schedule runs.
fn runs(core: &Core, fired: &Fired) -> bool {
    let state = core.journal.state();
    state.jobs().any(|(_, job)| match &job.phase {
        Phase::Taken { decision, .. } => decision.fired.is_some_and(|f| f.schedule == fired.schedule),
        Phase::Waiting { .. } | Phase::Standing { .. } | Phase::Finished { .. } => false,
    })
}

/// A firing whose time to begin is over, or after which another has come.
async fn give_up(core: &Core, standing: &Standing, fired: Fired, why: Refusal) {
    let why = Refusal::new(why.code, format!("it could not begin in time: {}", why.message));
    refuse(core, standing, fired, Outcome::Expired, why).await;
}

/// The receipt of a firing that does not begin, while there is room for receipts; else the time only passes: nobody
/// acknowledges anything while the hub is away, and the journal must not grow with each time until it is back.
async fn refuse(core: &Core, standing: &Standing, fired: Fired, outcome: Outcome, why: Refusal) {
    if unacknowledged(core).is_some() {
        tracing::warn!(schedule = %fired.schedule, nominal = %fired.nominal, %why, "no room for the receipt of a firing");
        return pass(core, fired, 1).await;
    }
    let job = standing.schedule.fire(fired);
    let wire = FiredWire {
        nominal: fired.nominal,
        schedule: standing.wire.clone(),
    };
    let word = match outcome {
        Outcome::Expired => "expired",
        _ => "denied",
    };
    let decision = core.refusing(word, &job.profile, Vec::new());
    let end = End::unstarted(outcome, why);
    let reply = conclude(
        core,
        fired.digest(),
        wire.to_wire(),
        Owed::of(&job),
        decision,
        end,
    )
    .await;
    if let OfferReply::Later(why) = reply {
        // Too old for a receipt, or no room for one: the time passes all the same, and is told of in the audit log.
        tracing::warn!(schedule = %fired.schedule, nominal = %fired.nominal, %why, "a firing has no receipt");
        pass(core, fired, 1).await;
    }
}

/// Times that are over, without a receipt.
async fn pass(core: &Core, last: Fired, times: usize) {
    let event = Event::new(EventType::ScheduleMissed)
        .with_id("job", &last.schedule)
        .with_id("upto", &last.nominal)
        .with("times", times as u64)
        .refused(&Code::ScheduleMissed.into());
    let step = Step {
        entries: vec![Entry::Passed { last }],
        audit: vec![event],
        receipt: None,
    };
    if let Err(e) = core.journal.commit(step).await {
        tracing::warn!(schedule = %last.schedule, error = %e, "missed times were not written; they are looked at again");
    }
}

#[cfg(test)]
mod tests;
