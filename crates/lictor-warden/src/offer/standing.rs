//! A schedule that is offered: verified and kept. What it asks for is judged at each firing, not now.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_proto::agent::{OfferReply, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Outcome, Schedule};
use lictor_proto::{Code, Digest, JobId, Timestamp};
use lictor_trust::Verified;

use super::{Unverified, conclude, later, refused, replayed, sort};
use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::Entry;
use crate::journal::state::Phase;
use crate::law::Held;
use crate::receipt::End;

/// Schedules that one node keeps.
const SCHEDULES: usize = 1024;

/// Takes a schedule, once and for good: what was here before is never taken again, however it ended.
pub(super) async fn take(core: &Arc<Core>, digest: Digest, wire: Wire) -> OfferReply {
    let live = core.live.claim(&digest);
    let reply = {
        let _turn = live.turn.lock().await;
        judge(core, digest, wire).await
    };
    core.live.release(&digest, live);
    reply
}

async fn judge(core: &Arc<Core>, digest: Digest, wire: Wire) -> OfferReply {
    if core.journal.state().is_seen(&digest) {
        return replayed(core, digest).await;
    }
    if core.is_draining() {
        return later(core, &digest, Code::Draining.into()).await;
    }
    let held = core.law.current();
    match verify(core, &held, &wire) {
        Ok(schedule) => keep(core, schedule, wire).await,
        Err(Unverified::Refused(refusal)) => refused(core, refusal, Some(&digest)).await,
        Err(Unverified::Later(refusal)) => later(core, &digest, refusal).await,
        Err(Unverified::Denied(outcome, refusal, owed)) => {
            let decision = core.refusing("denied", &owed.profile, Vec::new());
            let end = End::unstarted(outcome, refusal);
            conclude(core, digest, wire, owed, decision, end).await
        }
    }
}

fn verify(core: &Core, held: &Held, wire: &str) -> Result<Verified<Schedule>, Unverified> {
    let now = core.now();
    held.acting(now).map_err(Unverified::Later)?;
    let schedule = held
        .trust
        .verify_schedule(wire, now)
        .map_err(|refusal| sort(core, held, wire, refusal))?;
    schedule
        .check_node(&core.issuer.node_id)
        .map_err(Unverified::Refused)?;
    let state = core.journal.state();
    if schedule.ends_at <= state.pruned_until() {
        return Err(Unverified::Refused(Code::ReplayWindow.into()));
    }
    let standing = state
        .jobs()
        .filter(|(_, j)| matches!(j.phase, Phase::Standing { .. }));
    if standing.count() >= SCHEDULES {
        let why = format!("the node keeps {SCHEDULES} schedules, and no more");
        return Err(Unverified::Later(Refusal::new(Code::TooManyJobs, why)));
    }
    Ok(schedule)
}

async fn keep(core: &Arc<Core>, schedule: Verified<Schedule>, wire: Wire) -> OfferReply {
    let digest = schedule.digest();
    // What lies between its signature and now is missed, and its rule for that decides.
    let start = schedule.not_before.max(schedule.issued_at);
    let event = Event::new(EventType::ScheduleTaken)
        .with_id("job", &digest)
        .with_id("job_id", &JobId::from_digest(&digest))
        .with("operator", schedule.operator.as_str())
        .with("argv", schedule.spec.words().as_slice())
        .with("profile", schedule.profile.as_str())
        .with("cron", schedule.cron.as_str())
        .with("tz", schedule.tz.as_str());
    let step = Step {
        entries: vec![Entry::Standing {
            job: digest,
            envelope: wire,
            expires_at: schedule.ends_at,
            at: core.law.current().trust.now(core.now()),
            past: Timestamp::from_millis(start.as_millis().saturating_sub(1)),
        }],
        audit: vec![event],
        receipt: None,
    };
    match core.journal.commit(step).await {
        Ok(_) => {
            core.feeds.touch(digest);
            core.schedules.notify_one();
            OfferReply::Accepted
        }
        Err(e) => OfferReply::Later((&e).into()),
    }
}

/// Ends a schedule, with its receipt; does nothing when it does not stand any more. What it has fired goes on.
pub(crate) async fn end(core: &Core, digest: &Digest, outcome: Outcome, why: Refusal) {
    let standing = {
        let state = core.journal.state();
        let found = state.job(digest);
        found
            .filter(|j| matches!(j.phase, Phase::Standing { .. }))
            .map(|j| j.envelope.clone())
    };
    // Verified when it was taken; by now its operator may have left the roster.
    let Some(schedule) = standing.as_deref().and_then(own) else {
        return;
    };
    let word = match outcome {
        Outcome::Expired => "expired",
        Outcome::Canceled => "canceled",
        _ => "denied",
    };
    let decision = core.refusing(word, &schedule.profile, Vec::new());
    let event = Event::new(EventType::ScheduleEnded).with_id("job", digest);
    let step = Step {
        entries: Vec::new(),
        audit: vec![event.refused(&why)],
        receipt: Some(
            core.issuer
                .draft(*digest, &decision, End::unstarted(outcome, why)),
        ),
    };
    match core.journal.commit(step).await {
        Ok(_) => core.feeds.touch(*digest),
        // It is tried again at the next look at the clock.
        Err(e) => tracing::error!(schedule = %digest, error = %e, "the end of a schedule was not written"),
    }
}

/// A schedule of the own journal.
pub(crate) fn own(wire: &str) -> Option<Schedule> {
    let envelope = super::read(wire).ok()?;
    serde_json::from_slice(&envelope.payload).ok()
}
