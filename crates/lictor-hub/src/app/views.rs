//! From rows to what the API shows.

use lictor_proto::api::{ExecutionState, ExecutionView, JobView, NodeView, ScheduleView, StreamEvent};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Document as _, Fired, FiredWire, Job, Origin, Schedule};
use lictor_proto::{Code, Envelope, NodeId, OrgId, Timestamp, json, limits};

use super::{App, Error};
use crate::store::{ExecutionRow, JobRow, NodeRow};

/// The signed job in an envelope that was checked when it was taken: of a schedule its picture, of one firing what it is.
///
/// # Errors
/// [`Error::Internal`] when the stored bytes are damaged.
pub fn read_job(envelope: &str) -> Result<Job, Error> {
    let damaged = |e: String| Error::Internal(format!("a stored job is damaged: {e}"));
    if let Some(firing) = FiredWire::read(envelope) {
        let (schedule, digest) = read_schedule(&firing.schedule)?;
        return Ok(schedule.fire(Fired {
            schedule: digest,
            nominal: firing.nominal,
        }));
    }
    let read =
        Envelope::parse(envelope.as_bytes(), limits::JOB_ENVELOPE).map_err(|e| damaged(e.to_string()))?;
    if read.payload_type == Schedule::KIND.payload_type() {
        return Ok(read_schedule(envelope)?.0.picture());
    }
    json::from_slice(&read.payload).map_err(|e| damaged(e.to_string()))
}

fn read_schedule(envelope: &str) -> Result<(Schedule, lictor_proto::Digest), Error> {
    let damaged = |e: String| Error::Internal(format!("a stored schedule is damaged: {e}"));
    let read =
        Envelope::parse(envelope.as_bytes(), limits::JOB_ENVELOPE).map_err(|e| damaged(e.to_string()))?;
    let schedule = json::from_slice(&read.payload).map_err(|e| damaged(e.to_string()))?;
    Ok((schedule, read.digest()))
}

fn schedule_view(row: &JobRow, job: &Job) -> Result<Option<ScheduleView>, Error> {
    if job.origin != Origin::Schedule {
        return Ok(None);
    }
    let (schedule, _) = read_schedule(&row.envelope)?;
    Ok(Some(ScheduleView {
        cron: schedule.cron,
        tz: schedule.tz,
        ends_at: schedule.ends_at,
    }))
}

/// A job as people see it.
///
/// # Errors
/// [`Error::Internal`] when the stored bytes are damaged.
fn job(row: &JobRow, executions: Vec<ExecutionRow>) -> Result<JobView, Error> {
    let job = read_job(&row.envelope)?;
    Ok(JobView {
        job_id: row.job_id.clone(),
        digest: row.digest,
        operator: row.operator.clone(),
        kind: job.kind,
        command: job.spec.words(),
        profile: row.profile.clone(),
        reason: job.reason.clone(),
        issued_at: job.issued_at,
        expires_at: row.expires_at,
        created_at: row.created_at,
        schedule: schedule_view(row, &job)?,
        fired: job.fired(),
        executions: executions.into_iter().map(execution).collect(),
    })
}

fn execution(row: ExecutionRow) -> ExecutionView {
    let (code, message) = row
        .refusal
        .map_or((None, String::new()), |r| (Some(r.code), r.message));
    ExecutionView {
        node_id: row.node_id,
        node_name: row.node_name,
        state: row.state,
        code,
        message,
        started_at: row.started_at,
        finished_at: row.finished_at,
        log_bytes: row.log_bytes,
        ahead: None,
    }
}

/// That an execution waits for a node which is not there.
pub(crate) fn offline() -> Refusal {
    Refusal::new(
        Code::NodeOffline,
        "the node is not connected; the job waits for it",
    )
}

/// That, of a job that was submitted just now.
#[must_use]
pub fn offline_event(node_id: &NodeId) -> StreamEvent {
    let why = offline();
    StreamEvent::State {
        node_id: node_id.clone(),
        state: ExecutionState::Queued,
        code: Some(why.code),
        message: why.message,
        at: Timestamp::now(),
    }
}

impl App {
    /// Why an execution is queued for a node that is not connected, unless there is a better reason.
    pub(crate) fn say_if_offline(&self, org: &OrgId, row: &mut ExecutionRow) {
        // Whatever a node said when it handed the job back has gone with it; a cancel has not.
        let kept = row.refusal.as_ref().is_some_and(|r| r.code == Code::Canceled);
        if row.state == ExecutionState::Queued && !kept && self.links.get(org, &row.node_id).is_none() {
            row.refusal = Some(offline());
        }
    }

    /// A job as people see it, with who of its nodes is not there.
    ///
    /// # Errors
    /// [`Error::Internal`] when the stored bytes are damaged.
    pub(crate) fn view(
        &self,
        org: &OrgId,
        row: &JobRow,
        mut executions: Vec<ExecutionRow>,
    ) -> Result<JobView, Error> {
        for execution in &mut executions {
            self.say_if_offline(org, execution);
        }
        job(row, executions)
    }
}

/// Where an execution stands, as an event.
#[must_use]
pub fn state_event(row: &ExecutionRow) -> StreamEvent {
    let refusal = row.refusal.as_ref();
    StreamEvent::State {
        node_id: row.node_id.clone(),
        state: row.state,
        code: refusal.map(|r| r.code),
        message: refusal.map_or_else(String::new, |r| r.message.clone()),
        at: row.finished_at.or(row.started_at).unwrap_or_else(Timestamp::now),
    }
}

/// A node as people see it.
#[must_use]
pub fn node(row: NodeRow, connected: bool) -> NodeView {
    NodeView {
        node_id: row.node_id,
        name: row.name,
        kind: row.kind,
        connected,
        last_seen_at: row.last_seen_at,
        enrolled_at: row.enrolled_at,
        grant: row.grant,
        record: row.record,
        heartbeat: row.heartbeat,
    }
}
