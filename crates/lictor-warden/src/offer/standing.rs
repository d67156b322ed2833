//! A schedule that is offered: verified and kept. What it asks for is judged at each firing, not now.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_proto::agent::{OfferReply, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Outcome, Schedule};
use lictor_proto::{Code, Digest, Envelope, JobId, Name, Timestamp};
use lictor_trust::Verified;

use super::secrets::{Brought, Unusable};
use super::{Owed, Unverified, conclude, later, refused, replayed, sort};
use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::Entry;
use crate::journal::state::Phase;
use crate::law::Held;
use crate::receipt::End;

/// Schedules that one node keeps.
const SCHEDULES: usize = 1024;
/// Of them, those of one operator.
const OF_ONE: usize = 64;
/// Bytes of the secrets of all of them, sealed: they stand in the journal.
const SECRETS: usize = 32 * 1024 * 1024;

/// Takes a schedule, once and for good: what was here before is never taken again, however it ended. What is kept is
/// the envelope as this node writes it: every firing carries it, and around what was signed a hub can put any amount of
/// white space. So it is with the secrets that it uses, which no hub has to bring for a firing.
pub(super) async fn take(core: &Arc<Core>, envelope: &Envelope, secrets: &[Wire]) -> OfferReply {
    let digest = envelope.digest();
    let wire = String::from_utf8_lossy(&envelope.to_bytes()).into_owned();
    let live = core.live.claim(&digest);
    let reply = {
        let _turn = live.turn.lock().await;
        judge(core, digest, wire, secrets).await
    };
    core.live.release(&digest, live);
    reply
}

async fn judge(core: &Arc<Core>, digest: Digest, wire: Wire, secrets: &[Wire]) -> OfferReply {
    if core.journal.state().is_seen(&digest) {
        return replayed(core, digest).await;
    }
    if core.is_draining() {
        return later(core, &digest, Code::Draining.into()).await;
    }
    let held = core.law.current();
    let verified = verify(core, &held, &wire).and_then(|schedule| {
        let secrets = to_keep(core, &held, &schedule, secrets)?;
        check_secrets(core, &secrets)?;
        Ok((schedule, secrets))
    });
    match verified {
        Ok((schedule, secrets)) => keep(core, schedule, wire, secrets).await,
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
    let standing: Vec<Digest> = standing.map(|(digest, _)| *digest).collect();
    drop(state);
    let too_many = |why: String| Err(Unverified::Later(Refusal::new(Code::TooManyJobs, why)));
    if standing.len() >= SCHEDULES {
        return too_many(format!("the node keeps {SCHEDULES} schedules, and no more"));
    }
    if standing.len() >= OF_ONE && count_of(core, &standing, &schedule.operator) >= OF_ONE {
        let who = &schedule.operator;
        return too_many(format!("the node keeps {OF_ONE} schedules of {who}, and no more"));
    }
    Ok(schedule)
}

/// How many of these are one operator's. They are read outside the lock, one by one: together they may be large.
fn count_of(core: &Core, standing: &[Digest], operator: &Name) -> usize {
    let wire = |digest: &Digest| core.journal.state().job(digest).map(|j| j.envelope.clone());
    let schedules = standing.iter().filter_map(|digest| own(&wire(digest)?));
    schedules.filter(|s| s.operator == *operator).count()
}

/// The secrets that its firings will use. Whether they may is asked at each, and none is opened now.
fn to_keep(core: &Core, held: &Held, schedule: &Schedule, wires: &[Wire]) -> Result<Vec<Wire>, Unverified> {
    let picture = schedule.picture();
    let denied = |refusal| Unverified::Denied(Outcome::Denied, refusal, Owed::of(&picture));
    match Brought::verify(core, held, &picture, wires) {
        Ok(brought) => brought.kept().map_err(denied),
        Err(Unusable::Later(refusal)) => Err(Unverified::Later(refusal)),
        Err(Unusable::Denied(refusal)) => Err(denied(refusal)),
    }
}

/// That the secrets of all schedules together stay what a journal can carry.
fn check_secrets(core: &Core, more: &[Wire]) -> Result<(), Unverified> {
    let weight = |secrets: &[Wire]| secrets.iter().map(String::len).sum::<usize>();
    let state = core.journal.state();
    let kept = state.jobs().map(|(_, job)| match &job.phase {
        Phase::Standing { secrets, .. } => weight(secrets),
        _ => 0,
    });
    if more.is_empty() || kept.sum::<usize>().saturating_add(weight(more)) <= SECRETS {
        return Ok(());
    }
    let why = format!("the node keeps {SECRETS} bytes of secrets for schedules, and no more");
    Err(Unverified::Later(Refusal::new(Code::TooManyJobs, why)))
}

async fn keep(core: &Arc<Core>, schedule: Verified<Schedule>, wire: Wire, secrets: Vec<Wire>) -> OfferReply {
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
            secrets,
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
///
/// # Errors
/// When its end is not in the journal: it still stands.
pub(crate) async fn end(core: &Core, digest: &Digest, outcome: Outcome, why: Refusal) -> Result<(), Refusal> {
    let standing = {
        let state = core.journal.state();
        let found = state.job(digest);
        found
            .filter(|j| matches!(j.phase, Phase::Standing { .. }))
            .map(|j| j.envelope.clone())
    };
    let Some(wire) = standing else { return Ok(()) };
    // Verified when it was taken; by now its operator may have left the roster.
    let unread = || Refusal::new(Code::Internal, "a schedule in the journal cannot be read");
    let schedule = own(&wire).ok_or_else(unread)?;
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
        Ok(_) => {
            core.feeds.touch(*digest);
            Ok(())
        }
        Err(e) => {
            tracing::error!(schedule = %digest, error = %e, "the end of a schedule was not written");
            Err((&e).into())
        }
    }
}

/// A schedule of the own journal.
pub(crate) fn own(wire: &str) -> Option<Schedule> {
    let envelope = super::read(wire).ok()?;
    serde_json::from_slice(&envelope.payload).ok()
}
