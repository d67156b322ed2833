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

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_policy::{Asked, Authorise, Decision as Verdict, Denial, authorise};
use lictor_proto::agent::{Offer, OfferReply, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Approval, Ask, Job, Outcome, Stdin};
use lictor_proto::{Code, Digest, Envelope, JobId, Timestamp, limits};
use lictor_sandbox::StdinSource;
use lictor_trust::Verified;
use lictor_trust::sign::{sign, to_wire};
use tokio::sync::OwnedSemaphorePermit;

use crate::core::Core;
use crate::execution::{Execution, run};
use crate::journal::Step;
use crate::journal::entry::{Decision, Entry};
use crate::journal::state::Phase;
use crate::law::{Acting, Held};
use crate::live::LiveJob;
use crate::receipt::End;
use crate::steps::{Step as Timed, StepTimes};

/// Approvals of one job that are kept.
const APPROVALS: usize = 64;

/// Takes an offer to its end. Runs in a task of its own: whoever brought it may go.
pub(crate) async fn offer(core: Arc<Core>, offer: Offer) -> OfferReply {
    let mut times = StepTimes::start();
    let digest = match digest_of(&offer.job) {
        Ok(digest) => digest,
        Err(refusal) => return refused(&core, refusal, None).await,
    };
    let live = core.live.claim(&digest);
    let reply = {
        let _turn = live.turn.lock().await;
        judge(&core, digest, &live, offer, &mut times).await
    };
    if !matches!(reply, OfferReply::Accepted | OfferReply::Ask(_)) {
        core.live.release(&digest, live);
    }
    reply
}

fn digest_of(wire: &str) -> Result<Digest, Refusal> {
    Envelope::parse(wire.as_bytes(), limits::ENVELOPE)
        .map(|e| e.digest())
        .map_err(|e| Refusal::new(Code::EnvelopeMalformed, e.to_string()))
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
    offer: Offer,
    times: &mut StepTimes,
) -> OfferReply {
    let mut approvals = match known(core, &digest) {
        Known::Taken => return replayed(core, digest).await,
        Known::Waiting(approvals) => approvals,
        Known::No => Vec::new(),
    };
    approvals.extend(offer.approvals.into_iter().take(APPROVALS));
    if core.is_draining() {
        return later(core, &digest, Code::Draining.into()).await;
    }
    let held = core.law.current();
    let job = match verify(core, &held, &offer.job) {
        Ok(job) => job,
        Err(Unverified::Refused(refusal)) => return refused(core, refusal, Some(&digest)).await,
        Err(Unverified::Later(refusal)) => return later(core, &digest, refusal).await,
        Err(Unverified::Denied(outcome, refusal, job)) => {
            let decision = core.refusing("denied", &job.profile, Vec::new());
            return conclude(
                core,
                digest,
                offer.job,
                &job,
                decision,
                End::unstarted(outcome, refusal),
            )
            .await;
        }
    };
    // Whoever cancels later needs the verified job.
    let _ = live.job.set(job.clone());
    times.done(Timed::Verify);
    let place = match place(core).await {
        Ok(place) => place,
        Err(refusal) => return later(core, &digest, refusal).await,
    };
    let stdin = match stdin(core, &job) {
        Ok(stdin) => stdin,
        Err(refusal) => return later(core, &digest, refusal).await,
    };
    let acting = match held.acting(Timestamp::now()) {
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
    };
    case.decide(stdin, place, times).await
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
    Denied(Outcome, Refusal, Box<Job>),
}

fn verify(core: &Core, held: &Held, wire: &str) -> Result<Verified<Job>, Unverified> {
    let _span = tracing::debug_span!("verify").entered();
    let now = Timestamp::now();
    held.acting(now).map_err(Unverified::Later)?;
    let job = held
        .trust
        .verify_job(wire, now)
        .map_err(|refusal| sort(core, held, wire, refusal))?;
    job.check_node(&core.issuer.node_id)
        .map_err(Unverified::Refused)?;
    if job.expires_at <= core.journal.state().pruned_until() {
        return Err(Unverified::Refused(Code::ReplayWindow.into()));
    }
    Ok(job)
}

/// Whether a refusal is final, and whether it may cost a receipt.
fn sort(core: &Core, held: &Held, wire: &str, refusal: Refusal) -> Unverified {
    let outcome = match refusal.code {
        Code::NotYetValid | Code::IssuedInFuture | Code::StaleBundle => return Unverified::Later(refusal),
        Code::Expired => Outcome::Expired,
        Code::ValidityTooLong
        | Code::KindUnsupported
        | Code::JobRevoked
        | Code::OperatorRevoked
        | Code::KeyRevoked
        | Code::KeyExpired => Outcome::Denied,
        _ => return Unverified::Refused(refusal),
    };
    // A receipt only for what somebody in the roster did sign, for this node, and that cannot have run before.
    match held.trust.historic_job(wire) {
        Ok(job)
            if job.nodes.binary_search(&core.issuer.node_id).is_ok()
                && job.expires_at > core.journal.state().pruned_until() =>
        {
            Unverified::Denied(outcome, refusal, Box::new((*job).clone()))
        }
        _ => Unverified::Refused(refusal),
    }
}

/// A place among those that run, if one is free soon.
async fn place(core: &Core) -> Result<OwnedSemaphorePermit, Refusal> {
    let too_many = || Refusal::plain(Code::TooManyJobs);
    let unacknowledged = {
        let state = core.journal.state();
        state
            .jobs()
            .filter(|(_, j)| matches!(j.phase, Phase::Finished { .. }))
            .count()
    };
    if unacknowledged >= core.config.max_unacknowledged {
        return Err(Refusal::new(
            Code::TooManyJobs,
            "too many results wait for an acknowledgement",
        ));
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

fn stdin(core: &Core, job: &Job) -> Result<StdinSource, Refusal> {
    match &job.stdin {
        Stdin::Bytes(wanted) if wanted.size > 0 => {
            let mut spool = core
                .stdin
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            spool.get(wanted).map(StdinSource::File)
        }
        Stdin::Bytes(_) | Stdin::Word(_) => Ok(StdinSource::Null),
    }
}

/// Journals the end of a job that is not to be started.
pub(crate) async fn conclude(
    core: &Core,
    digest: Digest,
    envelope: Wire,
    job: &Job,
    decision: Decision,
    end: End,
) -> OfferReply {
    let refusal = end.why.clone().unwrap_or_else(|| Code::Internal.into());
    let draft = core.issuer.draft(digest, &decision, end);
    let step = Step {
        entries: vec![Entry::Taken {
            job: digest,
            envelope,
            expires_at: job.expires_at,
            decision,
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

/// One verified job in front of the law.
struct Case<'a> {
    core: &'a Arc<Core>,
    held: &'a Held,
    acting: Acting<'a>,
    digest: Digest,
    live: &'a Arc<LiveJob>,
    job: Verified<Job>,
    approvals: Vec<Wire>,
}

impl Case<'_> {
    async fn decide(
        self,
        stdin: StdinSource,
        place: OwnedSemaphorePermit,
        times: &mut StepTimes,
    ) -> OfferReply {
        let Some(profile) = self.acting.files.profiles.profiles.get(&self.job.profile) else {
            return self
                .deny(Outcome::Denied, Refusal::plain(Code::ProfileUnknown).into())
                .await;
        };
        let dir = self.core.work_dir(&self.digest);
        let resolved = {
            let _span = tracing::debug_span!("facts").entered();
            self.core
                .sandboxes
                .resolve((&self.job.profile, profile), self.job.exec(), &dir)
        };
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(refusal) => {
                let outcome = match refusal.code {
                    Code::ProgramNotFound | Code::StartFailed => Outcome::Failed,
                    _ => Outcome::Denied,
                };
                return self.deny(outcome, refusal.into()).await;
            }
        };
        times.done(Timed::Facts);
        let counted = self.verified_approvals().await;
        let verdict = {
            let _span = tracing::debug_span!("authorise").entered();
            authorise(Authorise {
                law: self.acting.law,
                files: self.acting.files,
                job: self.job.clone(),
                node: self.acting.node,
                facts: resolved.facts().clone(),
                approvals: &counted,
                now: self.acting.now,
            })
        };
        times.done(Timed::Authorise);
        let permit = match verdict {
            Verdict::Permit(permit) => permit,
            Verdict::Ask(asked) => return self.ask(asked).await,
            Verdict::Deny(denial) => return self.deny(Outcome::Denied, denial).await,
        };
        let mut decision = Decision {
            text: if permit.break_glass() {
                "permit (break glass)"
            } else {
                "permit"
            }
            .to_owned(),
            bundle_version: permit.bundle_version(),
            bundle_digest: permit.bundle_digest(),
            policy_ids: permit.policy_ids().to_vec(),
            approvals: permit.approvals().to_vec(),
            break_glass: permit.break_glass(),
            facts_digest: Some(resolved.facts().digest()),
            profile: permit.profile_name().clone(),
            backend: Some(profile.backend.as_str().to_owned()),
            capabilities: Vec::new(),
            plan_digest: None,
        };
        let plan = match self.core.sandboxes.plan(*permit, resolved) {
            Ok(plan) => plan,
            Err(refusal) => {
                decision.backend = None;
                let end = End::unstarted(Outcome::Denied, refusal);
                let wire = self.job.wire().to_owned();
                return conclude(self.core, self.digest, wire, &self.job, decision, end).await;
            }
        };
        decision.capabilities = plan.applied().capabilities.clone();
        decision.plan_digest = Some(plan.digest());
        if let Err(e) = self.take(&decision).await {
            return OfferReply::Later(e);
        }
        times.done(Timed::JournalStart);
        let execution = Execution {
            core: self.core.clone(),
            live: self.live.clone(),
            job: self.job,
            limits: profile.limits.clone(),
            decision,
            plan,
            stdin,
            times: *times,
            _place: place,
        };
        self.core.tasks.spawn(run(execution));
        OfferReply::Accepted
    }

    /// The first of the two syncs of an execution.
    async fn take(&self, decision: &Decision) -> Result<(), Refusal> {
        let exec = self.job.exec();
        let event = Event::new(EventType::JobPermitted)
            .with_id("job", &self.digest)
            .with_id("job_id", &JobId::from_digest(&self.digest))
            .with("operator", self.job.operator.as_str())
            .with("argv", exec.argv.as_slice())
            .with("profile", self.job.profile.as_str())
            .with("bundle", decision.bundle_version)
            .with("rules", decision.policy_ids.as_slice())
            .with("break_glass", decision.break_glass);
        let step = Step {
            entries: vec![Entry::Taken {
                job: self.digest,
                envelope: self.job.wire().to_owned(),
                expires_at: self.job.expires_at,
                decision: decision.clone(),
            }],
            audit: vec![event],
            receipt: None,
        };
        self.core
            .journal
            .commit(step)
            .await
            .map(|_| ())
            .map_err(|e| (&e).into())
    }

    async fn deny(self, outcome: Outcome, denial: Denial) -> OfferReply {
        let decision = self.core.refusing("denied", &self.job.profile, denial.policy_ids);
        let end = End::unstarted(outcome, denial.refusal);
        let wire = self.job.wire().to_owned();
        conclude(self.core, self.digest, wire, &self.job, decision, end).await
    }

    /// Approvals that hold now, one per document; the others leave an audit event.
    async fn verified_approvals(&self) -> Vec<Verified<Approval>> {
        let mut counted: Vec<Verified<Approval>> = Vec::new();
        for wire in &self.approvals {
            let checked = self
                .held
                .trust
                .verify_approval(wire, Timestamp::now())
                .and_then(|a| a.check_for(&self.job).map(|()| a));
            match checked {
                Ok(a) if counted.iter().any(|c| c.digest() == a.digest()) => {}
                Ok(a) => counted.push(a),
                Err(refusal) => {
                    let event = Event::new(EventType::ApprovalRefused).with_id("job", &self.digest);
                    self.core.audit(event.refused(&refusal)).await;
                }
            }
        }
        counted
    }

    /// Signs the ask and keeps the job waiting.
    async fn ask(self, asked: Box<Asked>) -> OfferReply {
        let asked = *asked;
        let core = self.core;
        let waiting = {
            let state = core.journal.state();
            state
                .jobs()
                .filter(|(_, j)| matches!(j.phase, Phase::Waiting { .. }))
                .count()
        };
        if waiting >= core.config.max_waiting {
            let refusal = Refusal::new(Code::TooManyJobs, "too many jobs wait for approvals");
            return later(core, &self.digest, refusal).await;
        }
        let facts = asked.facts.to_text();
        let gates: Vec<String> = asked.gates.iter().map(|g| g.policy_id.clone()).collect();
        let ask = Ask {
            tag: Default::default(),
            org: core.issuer.org.clone(),
            job_digest: self.digest,
            node_id: core.issuer.node_id.clone(),
            bundle_version: self.acting.law.version(),
            facts_digest: Digest::of(facts.as_bytes()),
            facts,
            gates: asked.gates,
            issued_at: self.acting.now,
        };
        let ask = to_wire(&sign(&ask, &[&core.identity]));
        let mut approvals = self.approvals;
        approvals.sort_unstable();
        approvals.dedup();
        approvals.truncate(APPROVALS);
        let step = Step {
            entries: vec![Entry::Waiting {
                job: self.digest,
                envelope: self.job.wire().to_owned(),
                expires_at: self.job.expires_at,
                ask: ask.clone(),
                approvals,
            }],
            audit: vec![
                Event::new(EventType::JobAsked)
                    .with_id("job", &self.digest)
                    .with("operator", self.job.operator.as_str())
                    .with("gates", gates.as_slice())
                    .with("code", Code::ApprovalNeeded),
            ],
            receipt: None,
        };
        match core.journal.commit(step).await {
            Ok(_) => OfferReply::Ask(ask),
            Err(e) => OfferReply::Later((&e).into()),
        }
    }
}
