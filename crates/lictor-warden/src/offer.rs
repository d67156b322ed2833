//! An offered job, from bytes to a journaled decision.
//!
//! ```text
//! bytes -> digest known? -> verify -> law -> stdin -> facts -> authorise -> plan -> journal -> accepted
//!             |               |        |      |        |          |           |
//!           Known          Refused   Later  Later    Denied   Ask, Denied   Denied
//! ```
//!
//! # Invariants
//! - Nothing is journaled as taken that could still be refused, and nothing starts that is not journaled as taken.
//! - Before a signature holds, only the bounded envelope is parsed, and the only trace is an audit event.

mod asking;
mod case;
mod input;
pub(crate) mod order;
pub(crate) mod room;
mod secrets;
pub(crate) mod standing;

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_proto::agent::{Offer, OfferReply, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{DocKind, Fired, FiredWire, Job, Outcome};
use lictor_proto::{Code, Digest, Envelope, Name, Timestamp, limits};
use lictor_trust::{Verified, is_unread};
use tokio::sync::OwnedSemaphorePermit;

use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::{Decision, Entry};
use crate::journal::state::Phase;
use crate::law::Held;
use crate::live::LiveJob;
use crate::receipt::End;
use crate::steps::{Step as Timed, StepTimes};
use case::Case;
pub(crate) use input::take_over;

/// Approvals of one job that are kept.
pub(crate) const APPROVALS: usize = 64;
/// Bytes of the approvals of one job that are kept: a journal entry holds them all.
pub(crate) const APPROVAL_BYTES: usize = 2 * limits::ENVELOPE;

/// Takes an offer to its end. Runs in a task of its own: whoever brought it may go.
pub(crate) async fn offer(core: Arc<Core>, offer: Offer) -> OfferReply {
    let envelope = match read(&offer.job) {
        Ok(envelope) => envelope,
        Err(refusal) => return refused(&core, refusal, None).await,
    };
    let digest = envelope.digest();
    if envelope.payload_type == DocKind::Schedule.payload_type() {
        return standing::take(&core, &envelope, &offer.secrets).await;
    }
    through(core, digest, offer, By::Signature).await
}

/// A firing of a schedule that is kept here, with the secrets that are kept beside it: the same way as a job that was
/// offered, to the same end.
pub(crate) async fn fire(
    core: Arc<Core>,
    digest: Digest,
    firing: &FiredWire,
    secrets: Vec<Wire>,
) -> OfferReply {
    let offer = Offer {
        job: firing.to_wire(),
        approvals: Vec::new(),
        releases: Vec::new(),
        secrets,
    };
    through(core, digest, offer, By::Clock).await
}

/// What a job comes by. Only the node's own clock fires schedules: no request from outside can name [`By::Clock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A signature over it, in an offer.
    Signature,
    /// A time of a schedule.
    Clock,
}

async fn through(core: Arc<Core>, digest: Digest, offer: Offer, by: By) -> OfferReply {
    let mut times = StepTimes::start();
    let live = core.live.claim(&digest);
    let reply = {
        let _turn = live.turn.lock().await;
        judge(&core, digest, &live, (offer, by), &mut times).await
    };
    if matches!(reply, OfferReply::Accepted | OfferReply::Denied(_))
        && let Some(job) = live.job.get()
    {
        input::spent(&core, job);
    }
    if !matches!(reply, OfferReply::Accepted | OfferReply::Ask(_)) {
        core.live.release(&digest, live);
    }
    reply
}

fn read(wire: &str) -> Result<Envelope, Refusal> {
    Envelope::parse(wire.as_bytes(), limits::JOB_ENVELOPE).map_err(|e| Refusal::new(e.code(), e.to_string()))
}

async fn refused(core: &Core, refusal: Refusal, job: Option<&Digest>) -> OfferReply {
    let mut event = Event::new(EventType::OfferRefused).refused(&refusal);
    if let Some(job) = job {
        event = event.with_id("job", job);
    }
    core.audit(event).await;
    OfferReply::Refused(refusal)
}

async fn later(core: &Core, digest: &Digest, refusal: Refusal) -> OfferReply {
    let event = Event::new(EventType::JobDeferred).with_id("job", digest);
    core.audit(event.refused(&refusal)).await;
    OfferReply::Later(refusal)
}

async fn judge(
    core: &Arc<Core>,
    digest: Digest,
    live: &Arc<LiveJob>,
    (offer, by): (Offer, By),
    times: &mut StepTimes,
) -> OfferReply {
    let mut approvals = match known(core, &digest) {
        Known::Taken => return replayed(core, digest).await,
        Known::Waiting(approvals) => approvals,
        Known::No => Vec::new(),
    };
    approvals.extend(offer.approvals.iter().take(APPROVALS).cloned());
    if core.is_draining() {
        return later(core, &digest, Code::Draining.into()).await;
    }
    let held = core.law.current();
    let job = match admitted(core, &held, digest, &offer.job, by).await {
        Ok(job) => job,
        Err(reply) => return reply,
    };
    // Whoever cancels later needs the verified job.
    let _ = live.job.set(job.clone());
    times.done(Timed::Verify);
    // Before it has a place: what waits for others is in nobody's way.
    if let Some(refusal) = order::behind(core, &digest, &job, &offer) {
        return later(core, &digest, refusal).await;
    }
    let (place, stdin) = match provided(core, &digest, &job).await {
        Ok(provided) => provided,
        Err(reply) => return reply,
    };
    let acting = match held.acting(core.now()) {
        Ok(acting) => acting,
        Err(refusal) => return later(core, &digest, refusal).await,
    };
    let case = Case {
        core,
        held: &held,
        acting,
        digest,
        live,
        job,
        approvals,
        releases: offer.releases,
        secrets: offer.secrets,
    };
    // What it holds on its way is large, and most of it belongs to this part only.
    Box::pin(case.decide(stdin, place, times)).await
}

/// The job, if it is one for this node by all that its bytes and the law say; else what its bringer is told.
async fn admitted(
    core: &Core,
    held: &Held,
    digest: Digest,
    wire: &str,
    by: By,
) -> Result<Verified<Job>, OfferReply> {
    match verify(core, held, wire, by) {
        Ok(job) => Ok(job),
        Err(Unverified::Refused(refusal)) => Err(refused(core, refusal, Some(&digest)).await),
        Err(Unverified::Later(refusal)) => Err(later(core, &digest, refusal).await),
        Err(Unverified::Denied(outcome, refusal, owed)) => {
            let decision = core.refusing("denied", &owed.profile, Vec::new());
            let end = End::unstarted(outcome, refusal);
            Err(conclude(core, digest, wire.to_owned(), owed, decision, end).await)
        }
    }
}

/// What it takes on this machine before it is judged: a place among those that run, its input, room for its output.
async fn provided(
    core: &Core,
    digest: &Digest,
    job: &Job,
) -> Result<(OwnedSemaphorePermit, input::Input), OfferReply> {
    let place = match place(core).await {
        Ok(place) => place,
        Err(refusal) => return Err(later(core, digest, refusal).await),
    };
    if core.is_draining() {
        // It waited for a place meanwhile, and the job that left it was to be the last.
        return Err(later(core, digest, Code::Draining.into()).await);
    }
    let stdin = match input::of(core, job).await {
        Ok(stdin) => stdin,
        Err(refusal) if refusal.code == Code::StdinMissing => {
            return Err(match input::begun(core, job) {
                Some(reply) => reply,
                None => later(core, digest, refusal).await,
            });
        }
        Err(refusal) => return Err(later(core, digest, refusal).await),
    };
    match room::for_output(core, job) {
        Ok(()) => Ok((place, stdin)),
        Err(refusal) => Err(later(core, digest, refusal).await),
    }
}

enum Known {
    No,
    Waiting(Vec<Wire>),
    Taken,
}

fn known(core: &Core, digest: &Digest) -> Known {
    let state = core.journal.state();
    match state.job(digest).map(|j| &j.phase) {
        Some(Phase::Waiting { approvals, .. }) => Known::Waiting(approvals.clone()),
        Some(_) => Known::Taken,
        None if state.is_seen(digest) => Known::Taken,
        None => Known::No,
    }
}

async fn replayed(core: &Core, digest: Digest) -> OfferReply {
    core.audit(
        Event::new(EventType::JobReplayed)
            .with_id("job", &digest)
            .with("code", Code::Replayed),
    )
    .await;
    core.feeds.again(digest);
    OfferReply::Known
}

enum Unverified {
    /// No accepted signature, or not for this node.
    Refused(Refusal),
    /// Something outside the job.
    Later(Refusal),
    /// It was signed for this node, and may not run for good.
    Denied(Outcome, Refusal, Owed),
}

/// What a receipt is owed for.
pub(crate) struct Owed {
    pub(crate) profile: Name,
    expires_at: Timestamp,
    fired: Option<Fired>,
}

impl Owed {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            profile: job.profile.clone(),
            expires_at: job.expires_at,
            fired: job.fired(),
        }
    }
}

fn verify(core: &Core, held: &Held, wire: &str, by: By) -> Result<Verified<Job>, Unverified> {
    let _span = tracing::debug_span!("verify").entered();
    let now = core.now();
    held.acting(now).map_err(Unverified::Later)?;
    let job = match by {
        By::Signature => held.trust.verify_job(wire, now),
        By::Clock => held.trust.verify_firing(wire, now),
    };
    let job = job.map_err(|refusal| sort(core, held, wire, refusal))?;
    job.check_node(&core.issuer.node_id)
        .map_err(Unverified::Refused)?;
    if job.expires_at <= core.journal.state().pruned_until() {
        return Err(Unverified::Refused(Code::ReplayWindow.into()));
    }
    if let Some(refusal) = unexpected(core, &job) {
        return Err(Unverified::Denied(Outcome::Denied, refusal, Owed::of(&job)));
    }
    Ok(job)
}

/// What this machine is and the job was not signed for. Asked anew for each offer: one that waited for approvals may
/// find another version of the agent than the one that it was offered to at first.
fn unexpected(core: &Core, job: &Job) -> Option<Refusal> {
    if job.expect.is_empty() {
        return None;
    }
    let host = core.sandboxes.host_facts(&core.config.dir);
    let differs = job
        .expect
        .differs(&host.os, &host.arch, env!("CARGO_PKG_VERSION"))?;
    let text = format!(
        "the job is for {} {}, and this node is {}",
        differs.fact, differs.wanted, differs.found
    );
    Some(Refusal::new(Code::ExpectationFailed, text))
}

/// Whether a refusal is final, and whether it may cost a receipt.
fn sort(core: &Core, held: &Held, wire: &str, refusal: Refusal) -> Unverified {
    let outcome = match refusal.code {
        Code::NotYetValid | Code::IssuedInFuture | Code::StaleBundle => return Unverified::Later(refusal),
        Code::Expired => Outcome::Expired,
        code if is_unread(code) => Outcome::Denied,
        Code::ValidityTooLong
        | Code::JobRevoked
        | Code::ScheduleRevoked
        | Code::OperatorRevoked
        | Code::KeyRevoked
        | Code::KeyExpired => Outcome::Denied,
        _ => return Unverified::Refused(refusal),
    };
    // A receipt only for what somebody in the roster did sign, for this node, and that cannot have run before.
    match owed(core, held, wire, refusal.code) {
        Some(owed) if owed.expires_at > core.journal.state().pruned_until() => {
            Unverified::Denied(outcome, refusal, owed)
        }
        _ => Unverified::Refused(refusal),
    }
}

/// Of a job that was signed for this node, whether it reads here or not.
fn owed(core: &Core, held: &Held, wire: &str, code: Code) -> Option<Owed> {
    let node = &core.issuer.node_id;
    match held.trust.historic_job(wire) {
        Ok(job) => job.nodes.binary_search(node).is_ok().then(|| Owed::of(&job)),
        Err(_) if is_unread(code) => {
            let now = held.trust.now(core.now());
            let unread = held.trust.unread_job(wire, node, now).ok()?;
            Some(Owed {
                profile: unread.profile,
                expires_at: unread.expires_at,
                fired: None,
            })
        }
        Err(_) => None,
    }
}

/// Whether as many results as may wait for an acknowledgement.
pub(crate) fn unacknowledged(core: &Core) -> Option<Refusal> {
    let state = core.journal.state();
    let results = state
        .jobs()
        .filter(|(_, j)| matches!(j.phase, Phase::Finished { .. }));
    let is_full = results.count() >= core.config.max_unacknowledged;
    is_full.then(|| {
        let why = "too many results wait for an acknowledgement";
        Refusal::new(Code::TooManyJobs, why)
    })
}

/// A place among those that run, if one is free soon.
async fn place(core: &Core) -> Result<OwnedSemaphorePermit, Refusal> {
    let too_many = || Refusal::plain(Code::TooManyJobs);
    if let Some(refusal) = unacknowledged(core) {
        return Err(refusal);
    }
    if let Ok(place) = core.places.clone().try_acquire_owned() {
        return Ok(place);
    }
    let _queued = core.queue.clone().try_acquire_owned().map_err(|_| too_many())?;
    match tokio::time::timeout(core.config.queue_wait, core.places.clone().acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(too_many()),
    }
}

/// Journals the end of a job that is not to be started.
pub(crate) async fn conclude(
    core: &Core,
    digest: Digest,
    envelope: Wire,
    owed: Owed,
    mut decision: Decision,
    end: End,
) -> OfferReply {
    decision.fired = owed.fired;
    let refusal = end.why.clone().unwrap_or_else(|| Code::Internal.into());
    let draft = core.issuer.draft(digest, &decision, end);
    let step = Step {
        entries: vec![Entry::Taken {
            job: digest,
            envelope,
            expires_at: owed.expires_at,
            decision: Box::new(decision),
        }],
        audit: Vec::new(),
        receipt: Some(draft),
    };
    match core.journal.commit(step).await {
        Ok(_) => {
            core.feeds.touch(digest);
            OfferReply::Denied(refusal)
        }
        Err(e) => OfferReply::Later((&e).into()),
    }
}
