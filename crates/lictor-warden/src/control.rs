//! Everything asked of the warden besides offers: law, approvals, cancels, acknowledgements, standard input.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_policy::{AuthoriseCancel, authorise_cancel};
use lictor_proto::agent::{Ack, LawDocs, LawHeld, Offer, OfferReply, StdinPiece};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{
    Approval, Cancel, Document as _, Fired, FiredWire, Job, Outcome, RevocationKind, Schedule,
};
use lictor_proto::{Code, Digest, Envelope, JobId, limits};
use lictor_trust::Verified;

use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::Entry;
use crate::journal::state::{self, Phase};
use crate::law::Held;
use crate::live::LiveJob;
use crate::offer::{APPROVAL_BYTES, APPROVALS, Owed, conclude, offer, standing};
use crate::receipt::End;

/// Takes newer law, then ends what it has revoked.
pub(crate) async fn law(core: Arc<Core>, docs: LawDocs) -> Result<LawHeld, Refusal> {
    let update = core.law.accept(docs, core.now()).await?;
    let report = &update.report;
    if report.changed() {
        let held = core.law_held();
        let mut event = Event::new(EventType::LawAccepted)
            .with("root", held.root)
            .with("bundle", held.bundle)
            .with("revocations", held.revocations);
        if let Some(digest) = &held.bundle_digest {
            event = event.with_id("bundle_digest", digest);
        }
        core.audit_always(event).await;
    }
    if let Some(why) = &update.unloadable {
        core.audit_always(Event::new(EventType::LawUnloadable).refused(why))
            .await;
    }
    for (kind, refusal) in &report.refused {
        let event = Event::new(EventType::LawRefused).with("document", kind.as_str());
        core.audit(event.refused(refusal)).await;
    }
    if !report.revocations.is_empty() {
        end_revoked(&core).await;
    }
    if report.changed() {
        core.schedules.notify_one();
        core.feeds.heartbeat();
        core.prepare_sandboxes();
    }
    match report.refused.first() {
        // What was taken was taken; the caller learns of the first that was not.
        Some((_, refusal)) if !report.changed() => Err(refusal.clone()),
        _ => Ok(core.law_held()),
    }
}

/// Whether the job, its operator or its key is revoked.
fn revoked(held: &Held, digest: &Digest, job: &Job, signers: &[lictor_proto::KeyId]) -> Option<Refusal> {
    let trust = &held.trust;
    let id = JobId::from_digest(digest);
    if trust.is_revoked(RevocationKind::Job, id.as_str()) {
        return Some(Code::JobRevoked.into());
    }
    let schedule = job.fired().map(|f| JobId::from_digest(&f.schedule));
    if schedule.is_some_and(|id| trust.is_schedule_revoked(&id)) {
        return Some(Code::ScheduleRevoked.into());
    }
    if trust.is_revoked(RevocationKind::Operator, job.operator.as_str()) {
        return Some(Code::OperatorRevoked.into());
    }
    let key = signers
        .iter()
        .any(|k| trust.is_revoked(RevocationKind::Key, &k.to_string()));
    key.then(|| Code::KeyRevoked.into())
}

/// What runs is stopped when the job itself is revoked; what waits also when its operator or key is.
async fn end_revoked(core: &Core) {
    let held = core.law.current();
    for (digest, live) in core.live.all() {
        let Some(job) = live.job.get() else { continue };
        let Some(why) = revoked(&held, &digest, job, job.signers()) else {
            continue;
        };
        if matches!(why.code, Code::JobRevoked | Code::ScheduleRevoked) {
            live.stop(why.clone());
        }
        let _turn = live.turn.lock().await;
        // Where that is not written it waits on, and is refused when somebody has it judged.
        let _ = end_waiting(core, &digest, Outcome::Denied, why).await;
    }
}

/// Ends a job that waits for approvals; does nothing when it does not wait any more.
///
/// # Errors
/// When its end is not in the journal: it still waits.
pub(crate) async fn end_waiting(
    core: &Core,
    digest: &Digest,
    outcome: Outcome,
    why: Refusal,
) -> Result<(), Refusal> {
    let waiting = {
        let state = core.journal.state();
        state
            .job(digest)
            .filter(|j| matches!(j.phase, Phase::Waiting { .. }))
            .map(|j| j.envelope.clone())
    };
    let Some(envelope) = waiting else { return Ok(()) };
    // It was verified when it came; by now its operator may have left the roster.
    let job = own_job(&envelope).ok_or_else(unread)?;
    let word = if outcome == Outcome::Expired {
        "expired"
    } else {
        "denied"
    };
    let decision = core.refusing(word, &job.profile, Vec::new());
    let end = End::unstarted(outcome, why);
    match conclude(core, *digest, envelope, Owed::of(&job), decision, end).await {
        OfferReply::Later(failed) => {
            tracing::error!(job = %digest, why = %failed, "the end of a waiting job was not written");
            Err(failed)
        }
        _ => Ok(()),
    }
}

fn unread() -> Refusal {
    Refusal::new(Code::Internal, "a job in the journal cannot be read")
}

/// A job of the own journal: of a schedule its picture, of a firing what it is.
fn own_job(wire: &str) -> Option<Job> {
    if let Some(firing) = FiredWire::read(wire) {
        let envelope = Envelope::parse(firing.schedule.as_bytes(), limits::JOB_ENVELOPE).ok()?;
        let fired = Fired {
            schedule: envelope.digest(),
            nominal: firing.nominal,
        };
        return Some(standing::own(&firing.schedule)?.fire(fired));
    }
    let envelope = Envelope::parse(wire.as_bytes(), limits::JOB_ENVELOPE).ok()?;
    if envelope.payload_type == Schedule::KIND.payload_type() {
        return Some(standing::own(wire)?.picture());
    }
    serde_json::from_slice(&envelope.payload).ok()
}

/// Keeps a signed approval with the job that it is for, and judges that job again.
pub(crate) async fn approval(core: Arc<Core>, wire: String) -> Result<(), Refusal> {
    let held = core.law.current();
    let approval = match held.trust.verify_approval(&wire, core.now()) {
        Ok(approval) => approval,
        Err(refusal) => return refuse_approval(&core, refusal).await,
    };
    let envelope = match waiting_for(&core, &held, &approval) {
        Ok(envelope) => envelope,
        Err(refusal) => return refuse_approval(&core, refusal).await,
    };
    keep(&core, &approval).await?;
    let again = Offer {
        job: envelope,
        approvals: vec![wire],
        releases: Vec::new(),
        // Whoever has them brings them with the job.
        secrets: Vec::new(),
    };
    // Whatever comes of it is in the journal and follows as events.
    let reply = offer(core, again).await;
    tracing::debug!(?reply, "an approved job was judged again");
    Ok(())
}

/// Keeps it with the waiting job before that is judged: where something is missing for that, such as a secret, the
/// approval has been taken all the same, and is there when the job comes with the rest.
async fn keep(core: &Core, approval: &Verified<Approval>) -> Result<(), Refusal> {
    let digest = approval.job_digest;
    let live = core.live.claim(&digest);
    let _turn = live.turn.lock().await;
    let waiting = core.journal.state().job(&digest).and_then(|j| with(j, approval));
    let event = Event::new(EventType::ApprovalAccepted)
        .with_id("job", &digest)
        .with_id("approval", &approval.digest())
        .with("approver", approval.approver.as_str());
    let step = Step {
        entries: waiting.into_iter().collect(),
        audit: vec![event],
        receipt: None,
    };
    core.journal
        .commit(step)
        .await
        .map(|_| ())
        .map_err(|e| (&e).into())
}

/// The entry of a waiting job with one more approval; none if it has that one, has as many as are kept, or waits no more.
fn with(job: &state::Job, approval: &Verified<Approval>) -> Option<Entry> {
    let Phase::Waiting { ask, approvals } = &job.phase else {
        return None;
    };
    let is_it = |wire: &String| {
        let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE);
        envelope.is_ok_and(|e| e.digest() == approval.digest())
    };
    let bytes: usize = approvals.iter().map(String::len).sum();
    let is_full = approvals.len() >= APPROVALS || bytes + approval.wire().len() > APPROVAL_BYTES;
    if is_full || approvals.iter().any(is_it) {
        return None;
    }
    let mut approvals = approvals.clone();
    approvals.push(approval.wire().to_owned());
    Some(Entry::Waiting {
        job: approval.job_digest,
        envelope: job.envelope.clone(),
        expires_at: job.expires_at,
        ask: ask.clone(),
        approvals,
    })
}

async fn refuse_approval(core: &Core, refusal: Refusal) -> Result<(), Refusal> {
    core.audit(Event::new(EventType::ApprovalRefused).refused(&refusal))
        .await;
    Err(refusal)
}

fn waiting_for(core: &Core, held: &Held, approval: &Verified<Approval>) -> Result<String, Refusal> {
    let envelope = match core.journal.state().job(&approval.job_digest) {
        Some(job) if matches!(job.phase, Phase::Waiting { .. }) => job.envelope.clone(),
        Some(_) => return Err(Refusal::new(Code::Replayed, "the job does not wait any more")),
        None => return Err(Refusal::new(Code::NotFound, "no job of this digest waits here")),
    };
    let job = held.trust.verify_job(&envelope, core.now())?;
    approval.check_for(&job)?;
    Ok(envelope)
}

/// Ends a job that somebody may end. With the signed job beside the cancel, one that is not known here is ended
/// before it starts: it is journaled as over, so that no later offer can start it, and has a signed receipt.
pub(crate) async fn cancel(core: Arc<Core>, wire: String, job: Option<String>) -> Result<(), Refusal> {
    match try_cancel(&core, &wire, job).await {
        Ok(()) => Ok(()),
        Err(refusal) => {
            core.audit(Event::new(EventType::CancelRefused).refused(&refusal))
                .await;
            Err(refusal)
        }
    }
}

async fn try_cancel(core: &Core, wire: &str, job: Option<String>) -> Result<(), Refusal> {
    let held = core.law.current();
    let system = core.now();
    let cancel = held.trust.verify_cancel(wire, system)?;
    let digest = cancel.job_digest;
    let live = core.live.claim(&digest);
    let turn = live.turn.lock().await;
    let done = end_canceled(core, &held, &live, cancel, job).await;
    drop(turn);
    if !core.open_jobs().contains(&digest) {
        core.live.release(&digest, live);
    }
    done
}

async fn end_canceled(
    core: &Core,
    held: &Held,
    live: &LiveJob,
    cancel: Verified<Cancel>,
    offered: Option<String>,
) -> Result<(), Refusal> {
    let digest = cancel.job_digest;
    let known = {
        let state = core.journal.state();
        match state.job(&digest) {
            Some(job) if matches!(job.phase, Phase::Finished { .. }) => return Ok(()),
            Some(job) => Some(job.envelope.clone()),
            None if state.is_seen(&digest) => return Ok(()),
            None => None,
        }
    };
    let fresh = known.is_none();
    let Some(envelope) = known.or(offered) else {
        return Err(Refusal::new(Code::NotFound, "no job of this digest is here"));
    };
    let job = match (live.job.get(), fresh) {
        (Some(job), false) => job.doc().clone(),
        // Verified when it came; by now its operator may have left the roster, and then it has to be ended all the more.
        (None, false) => own_job(&envelope).ok_or_else(unread)?,
        (_, true) => {
            let job = held.trust.verify_to_end(&envelope, core.now())?;
            check_unknown(core, &digest, &job)?;
            job.doc().clone()
        }
    };
    let acting = held.ending(core.now())?;
    let who = cancel.operator.clone();
    let permit = authorise_cancel(AuthoriseCancel {
        law: acting.law,
        files: acting.files,
        cancel,
        digest,
        job: &job,
        node: acting.node,
        now: acting.now,
    })
    .map_err(|denial| denial.refusal)?;
    let why = Refusal::new(
        Code::Canceled,
        format!("canceled by {who}: {}", permit.cancel().reason),
    );
    core.audit_always(
        Event::new(EventType::CancelAccepted)
            .with_id("job", &digest)
            .with_id("cancel", &permit.cancel().digest())
            .with("operator", who.as_str())
            .with("rules", permit.policy_ids()),
    )
    .await;
    if fresh {
        let decision = core.refusing("denied", &job.profile, Vec::new());
        let end = End::unstarted(Outcome::Canceled, why);
        return match conclude(core, digest, envelope, Owed::of(&job), decision, end).await {
            OfferReply::Later(failed) => Err(failed),
            _ => Ok(()),
        };
    }
    live.stop(why.clone());
    standing::end(core, &digest, Outcome::Canceled, why.clone()).await?;
    end_waiting(core, &digest, Outcome::Canceled, why).await
}

/// A job that came with its cancel must be the one that the cancel names, for this node, and not one that was
/// here and has been forgotten.
fn check_unknown(core: &Core, digest: &Digest, job: &Verified<Job>) -> Result<(), Refusal> {
    if job.digest() != *digest {
        return Err(Code::WrongJob.into());
    }
    job.check_node(&core.issuer.node_id)?;
    if job.expires_at <= core.journal.state().pruned_until() {
        return Err(Code::ReplayWindow.into());
    }
    Ok(())
}

/// The hub says that it has stored something for good.
pub(crate) async fn ack(core: Arc<Core>, ack: Ack) -> Result<(), Refusal> {
    let taken = take_ack(&core, ack).await;
    if let Err(refusal) = &taken {
        core.audit(Event::new(EventType::AckRefused).refused(refusal))
            .await;
    }
    taken
}

async fn take_ack(core: &Core, ack: Ack) -> Result<(), Refusal> {
    match ack {
        Ack::Output { job, upto } => {
            if let Some(spool) = core.live.get(&job).and_then(|l| l.spool.get().cloned()) {
                spool.release(upto);
            }
            let known = core.journal.state().job(&job).is_some_and(|j| j.acked < upto);
            if known {
                core.journal.note(Step {
                    entries: vec![Entry::OutputAcked { job, upto }],
                    ..Step::default()
                });
            }
            Ok(())
        }
        Ack::Result { job, receipt } => {
            let held = match core.journal.state().job(&job).map(|j| &j.phase) {
                Some(Phase::Finished { digest, log, .. }) => {
                    Some((*digest, !log.kept.is_empty() && log.inline.is_empty()))
                }
                Some(_) => return Err(Refusal::new(Code::NotFound, "this job has no result yet")),
                None => None,
            };
            match held {
                // Acknowledged before, unless it waits in the archive.
                None => match core.archive.receipt_of(&job) {
                    None => Ok(()),
                    Some(archived) if archived != receipt => Err(Refusal::new(
                        Code::ResultConflict,
                        "another receipt than the one that was sent",
                    )),
                    Some(_) => acknowledge_archived(core, job, receipt).await,
                },
                Some((digest, _)) if digest != receipt => Err(Refusal::new(
                    Code::ResultConflict,
                    "another receipt than the one that was sent",
                )),
                Some((_, has_file)) => {
                    let event = Event::new(EventType::ResultAcknowledged)
                        .with_id("job", &job)
                        .with_id("receipt", &receipt);
                    let step = Step {
                        entries: vec![Entry::Acked { job }],
                        audit: vec![event],
                        receipt: None,
                    };
                    if has_file {
                        // A crash must not find the result still due, and its output gone.
                        core.journal.commit(step).await.map_err(|e| Refusal::from(&e))?;
                        core.spool_paths(&job).remove();
                    } else {
                        core.journal.note(step);
                    }
                    core.live.forget(&job);
                    Ok(())
                }
            }
        }
    }
}

/// The hub has a result that had been given up for so long.
async fn acknowledge_archived(core: &Core, job: Digest, receipt: Digest) -> Result<(), Refusal> {
    let event = Event::new(EventType::ResultAcknowledged)
        .with_id("job", &job)
        .with_id("receipt", &receipt)
        .with("archived", true);
    let step = Step {
        audit: vec![event],
        ..Step::default()
    };
    core.journal.commit(step).await.map_err(|e| Refusal::from(&e))?;
    core.archive
        .remove(&job)
        .map_err(|e| Refusal::new(Code::Internal, format!("the archive: {e}")))
}

/// A piece of standard input.
pub(crate) async fn stdin(core: Arc<Core>, piece: StdinPiece) -> Result<(), Refusal> {
    let sha256 = piece.sha256;
    let spooling = core.clone();
    // On a thread that may wait for the disk: files of gigabytes come this way.
    let taken = tokio::task::spawn_blocking(move || {
        let spool = spooling.stdin.lock();
        spool
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take(&piece)
    });
    let taken = taken
        .await
        .map_err(|e| Refusal::new(Code::Internal, e.to_string()))
        .flatten();
    if let Err(refusal) = &taken {
        let event = Event::new(EventType::StdinRefused).with_id("sha256", &sha256);
        core.audit(event.refused(refusal)).await;
    }
    taken
}
