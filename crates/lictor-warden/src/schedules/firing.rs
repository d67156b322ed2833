//! One time of a schedule: begun, refused with a receipt, or only passed.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_proto::Code;
use lictor_proto::agent::OfferReply;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Fired, FiredWire, Outcome, Overlap};

use super::{Pending, Standing};
use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::Entry;
use crate::journal::state::Phase;
use crate::offer::{Owed, conclude, fire, unacknowledged};
use crate::receipt::End;

/// Has a firing begin; what can be decided is decided now, and what cannot waits.
pub(super) async fn attempt(core: &Arc<Core>, standing: &Standing, fired: Fired) -> Option<Pending> {
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
    let secrets = match core.journal.state().job(&fired.schedule).map(|j| &j.phase) {
        Some(Phase::Standing { secrets, .. }) => secrets.clone(),
        // It has ended a moment ago.
        _ => return None,
    };
    match fire(core.clone(), fired.digest(), &wire, secrets).await {
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
pub(super) async fn give_up(core: &Core, standing: &Standing, fired: Fired, why: Refusal) {
    let why = Refusal::new(why.code, format!("it could not begin in time: {}", why.message));
    refuse(core, standing, fired, Outcome::Expired, why).await;
}

/// The receipt of a firing that does not begin, while there is room for receipts; else the time only passes: nobody
/// acknowledges anything while the hub is away, and the journal must not grow with each time until it is back.
pub(super) async fn refuse(core: &Core, standing: &Standing, fired: Fired, outcome: Outcome, why: Refusal) {
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
pub(super) async fn pass(core: &Core, last: Fired, times: usize) {
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
