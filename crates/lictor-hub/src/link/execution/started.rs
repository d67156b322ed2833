//! The start of an execution. Of a firing it is the first that the hub hears: the node tells what it is beside it.

use std::time::Duration;

use lictor_proto::JobId;
use lictor_proto::api::{ExecutionState, StartedReport};
use lictor_proto::code::Refusal;
use lictor_proto::doc::Job;
use lictor_proto::{Code, Timestamp};

use super::Execution;
use crate::app::Error;
use crate::link::offer::state_of;
use crate::store::{JobRow, Step};

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
        let firing = firing.map(|wire| self.firing(wire)).transpose()?;
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
    fn firing(&self, wire: String) -> Result<JobRow, Error> {
        let (app, node) = (&self.link.app, &self.link.node);
        let (job, _) = app.org(&self.live.key.org)?.with(|t| t.reported_job(&wire))?;
        if job.fired().is_none() || JobId::from_digest(&job.digest()) != self.live.key.job_id {
            return Err(Refusal::from(Code::WrongJob).into());
        }
        if !job.nodes.contains(&node.node_id) {
            return Err(Refusal::from(Code::WrongNode).into());
        }
        check_time(&job)?;
        Ok(self.row(job.digest(), job.doc(), wire))
    }
}
