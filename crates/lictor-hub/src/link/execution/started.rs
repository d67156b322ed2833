//! The start of an execution. Of a firing it is the first that the hub hears: the node tells what it is beside it.

use std::time::Duration;

use lictor_proto::api::{ExecutionState, StartedReport};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Fired, FiredWire, Job, Schedule};
use lictor_proto::{Code, Digest, Envelope, JobId, Timestamp, limits};
use lictor_trust::Judged;

use super::Execution;
use crate::app::{Error, views};
use crate::link::offer::state_of;
use crate::store::{ExecutionKey, JobRow, Step};

/// So far ahead a firing may be: another version's time zones move it by little more than a day, and the node's clock may be
/// wrong.
const AHEAD: Duration = Duration::from_secs(2 * 86_400);

/// Refuses a firing of the future: else a node could make up all that its schedule has at once.
pub(super) fn check_time(job: &Job) -> Result<(), Refusal> {
    match job.fired() {
        Some(fired) if fired.nominal > Timestamp::now().plus(AHEAD) => Err(Code::IssuedInFuture.into()),
        _ => Ok(()),
    }
}

impl Execution {
    pub(super) async fn started(&mut self, report: StartedReport) -> Result<(), Error> {
        let StartedReport { at, firing } = report;
        let firing = match firing {
            Some(wire) => Some(self.firing(&wire).await?),
            None => None,
        };
        // What nodes fire by themselves takes no place from what people ask for.
        let takes_a_place = firing.is_none();
        let step = Step::Running {
            started_at: at,
            until: Timestamp::now().plus(self.link.app.times.lease),
        };
        self.live
            .event(state_of(&self.link, ExecutionState::Running, None))
            .await;
        let (app, key) = (self.link.app.clone(), self.live.key.clone());
        // Nobody waits for it, and the result must not either.
        self.link.app.tasks.spawn(async move {
            if let Some(row) = firing
                && let Err(e) = app.store.put_firing(&key.org, row).await
            {
                tracing::error!(error = %Error::from(e).chain(), "a firing was not stored; its end will bring it");
            }
            match app.store.advance(&key, step).await {
                // It has a lease from now on, with which its place ends at the latest.
                Ok(true) if takes_a_place => app.enter(&key).await,
                Ok(_) => {}
                Err(e) => tracing::error!(error = %Error::from(e).chain(), "a start was not stored"),
            }
        });
        Ok(())
    }

    /// A firing as it is stored, from the schedule that somebody has signed for this node.
    ///
    /// # Errors
    /// When it is none, or another one, or one of the future.
    async fn firing(&mut self, wire: &str) -> Result<JobRow, Error> {
        let told = self.told_of(wire).await?;
        if told.job.fired().is_none() || JobId::from_digest(&told.digest) != self.live.key.job_id {
            return Err(Refusal::from(Code::WrongJob).into());
        }
        if !told.job.nodes.contains(&self.link.node.node_id) {
            return Err(Refusal::from(Code::WrongNode).into());
        }
        check_time(&told.job)?;
        Ok(self.row(told))
    }

    /// The job that a node tells of: proven anew; or, where its signer has left the roster since, as this hub took it while
    /// that could be proven.
    ///
    /// # Errors
    /// When it is none that somebody in the roster has signed, then or now.
    pub(super) async fn told_of(&mut self, wire: &str) -> Result<ToldOf, Error> {
        let org = self.link.app.org(&self.live.key.org)?;
        let refusal = match org.with(|t| t.reported_job(wire)) {
            Ok((job, judged)) => {
                return Ok(ToldOf {
                    digest: job.digest(),
                    job: job.doc().clone(),
                    wire: job.wire().to_owned(),
                    judged,
                });
            }
            Err(refusal) => refusal,
        };
        if refusal.code == Code::SignerUnknown
            && let Some(stored) = self.as_stored(wire).await?
        {
            return Ok(stored);
        }
        Err(refusal.into())
    }

    /// The same of what this hub has stored: the job, or the schedule that fired it.
    async fn as_stored(&mut self, wire: &str) -> Result<Option<ToldOf>, Error> {
        let firing = FiredWire::read(wire);
        let signed = firing.as_ref().map_or(wire, |f| f.schedule.as_str());
        let Ok(envelope) = Envelope::parse(signed.as_bytes(), limits::JOB_ENVELOPE) else {
            return Ok(None);
        };
        let digest = envelope.digest();
        let key = ExecutionKey {
            job_id: JobId::from_digest(&digest),
            ..self.live.key.clone()
        };
        let stored = self.link.app.store.papers(&key).await?;
        // With the signatures that were proven: the digest says nothing of those that the node has brought.
        let Some(proven) = stored.map(|s| s.job).filter(|job| job.digest == digest) else {
            return Ok(None);
        };
        let Some(FiredWire { nominal, .. }) = firing else {
            return Ok(Some(ToldOf {
                digest,
                job: views::read_job(&proven.envelope)?,
                wire: proven.envelope,
                judged: Judged::Yes,
            }));
        };
        let schedule: Schedule =
            serde_json::from_slice(&envelope.payload).map_err(|e| Error::Internal(e.to_string()))?;
        let fired = Fired {
            schedule: digest,
            nominal,
        };
        let wire = FiredWire {
            nominal,
            schedule: proven.envelope,
        };
        Ok(Judged::of(&schedule, nominal).map(|judged| ToldOf {
            digest: fired.digest(),
            job: schedule.fire(fired),
            wire: wire.to_wire(),
            judged,
        }))
    }
}

/// A job that a node tells of.
pub(super) struct ToldOf {
    pub(super) digest: Digest,
    pub(super) job: Job,
    /// As its signatures were proven.
    pub(super) wire: String,
    pub(super) judged: Judged,
}
