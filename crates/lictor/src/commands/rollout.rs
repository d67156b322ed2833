//! Rollouts: a job that the hub spreads over its nodes, batch by batch; and how one stands.
//!
//! # Invariants
//! - The plan is the hub's courtesy and nothing that any node knows; what a rollout has done is what receipts say.

use std::time::Duration;

use lictor_client::rollout::{Share, batches, order};
use lictor_client::{Hub, SignedDoc, Target, TrustStore};
use lictor_proto::api::{ExecutionState, JobView, NewRollout, RolloutPlan, RolloutState, RolloutView};
use lictor_proto::{JobId, NodeId, Timestamp};
use serde_json::json;

use crate::args::{JobRef, Rollout, RolloutCommand, Spread};
use crate::commands::choice::Choice;
use crate::commands::fleet::FleetUntil;
use crate::commands::run::{Submitted, said_submitted};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::out::table;
use crate::session::{Session, failed};

/// How long a rollout may take, where nobody says.
const VALID_ROLLOUT: Duration = Duration::from_secs(3600);

impl Spread {
    /// Whether it was asked for.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.batch.is_empty() || self.concurrency.is_some() || self.max_failures.is_some()
    }
}

/// How the job is to be spread, if that was asked for; puts the nodes in the order in which they begin.
pub(crate) fn plan(spread: &Spread, targets: &[Target], choice: &mut Choice) -> Option<RolloutPlan> {
    if !spread.is_wanted() {
        return None;
    }
    order(&mut choice.nodes, targets);
    let ids: Vec<NodeId> = choice.nodes.iter().map(|n| n.id().clone()).collect();
    let most = spread.max_failures.unwrap_or(Share::Count(1)).of(ids.len());
    Some(RolloutPlan {
        batches: batches(&ids, &spread.batch),
        concurrency: spread.concurrency,
        pause_ms: spread
            .pause
            .map_or(0, |p| u64::try_from(p.as_millis()).unwrap_or(u64::MAX)),
        max_failures: u32::try_from(most).unwrap_or(u32::MAX),
    })
}

/// How long the job is valid: as long as is said, or `alone` where it is no rollout; a rollout takes its time, as much as
/// the law allows.
pub(crate) fn valid(
    said: Option<Duration>,
    alone: Duration,
    spread: &Spread,
    store: &TrustStore,
) -> Result<Duration> {
    let valid = match (said, spread.is_wanted()) {
        (Some(valid), _) => valid,
        (None, false) => alone,
        (None, true) => {
            let law = store.trust().law(Timestamp::now());
            let law = law.map_err(|r| Failure::refused("the pinned law is not in force", &r))?;
            VALID_ROLLOUT.max(alone).min(law.fleet.max_job_validity)
        }
    };
    if spread.pause.is_some_and(|pause| pause >= valid) {
        return Err(
            Failure::new("the job would have expired before the pause is over")
                .why(format!("it is valid for {valid:?}"))
                .hint("Say --valid with more than --pause."),
        );
    }
    Ok(valid)
}

/// A rollout that the hub has taken.
pub(crate) struct Begun<'a> {
    submitted: Submitted<'a>,
    job: &'a SignedDoc,
    view: JobView,
}

/// Hands in a job with its plan.
pub(crate) async fn submit<'a>(
    submitted: Submitted<'a>,
    job: &'a SignedDoc,
    plan: RolloutPlan,
) -> Result<Begun<'a>> {
    let (session, hub) = (submitted.session, submitted.hub);
    session.out.progress(format!("{} batches", plan.batches.len()));
    let new = NewRollout {
        job: job.wire.clone(),
        plan,
    };
    let view = hub.submit_rollout(&new).await;
    let view = view.map_err(|e| failed("submit the rollout", &e))?;
    Ok(Begun { submitted, job, view })
}

impl Begun<'_> {
    /// Prints its id, and unless it is left to itself follows it.
    pub(crate) async fn follow(self, detach: bool, until: FleetUntil) -> Result {
        if detach {
            return said_submitted(self.submitted.session, self.job, &self.view);
        }
        self.submitted.say(self.job)?;
        self.submitted.fleet(until).follow_job().await
    }
}

/// Of one job, what the hub says.
async fn fetch(hub: &Hub, id: &JobId) -> Result<RolloutView> {
    hub.rollout(id)
        .await
        .map_err(|e| failed(&format!("fetch the rollout of job {id}"), &e))
}

/// The nodes of these batches, counted from 1, as the hub says.
pub(crate) async fn nodes_of(hub: &Hub, id: &JobId, numbers: &[u32]) -> Result<Vec<NodeId>> {
    let rollout = fetch(hub, id).await?;
    let mut nodes = Vec::new();
    for number in numbers {
        let batch = rollout.plan.batches.get(*number as usize - 1);
        let batch = batch.ok_or_else(|| {
            let there = rollout.plan.batches.len();
            Failure::new(format!("there is no batch {number}")).why(format!("the rollout has {there}"))
        })?;
        nodes.extend(batch.iter().cloned());
    }
    Ok(nodes)
}

pub(crate) async fn run(session: &Session, args: &Rollout) -> Result {
    let hub = session.hub()?;
    match &args.command {
        RolloutCommand::Show(JobRef { id }) => show(session, &hub, id).await,
        RolloutCommand::Continue(JobRef { id }) => {
            let continued = hub.continue_rollout(id).await;
            let view = continued.map_err(|e| failed(&format!("continue the rollout of {id}"), &e))?;
            session.out.either(&view, || {
                format!("it goes on: `lictor logs -f {id}` follows it, `lictor rollout show {id}` says how it stands")
            })?;
            Ok(Status::OK)
        }
    }
}

async fn show(session: &Session, hub: &Hub, id: &JobId) -> Result {
    let rollout = fetch(hub, id).await?;
    let job = hub
        .job(id)
        .await
        .map_err(|e| failed(&format!("fetch job {id}"), &e))?;
    let value = json!({ "rollout": rollout, "executions": job.executions });
    session.out.either(&value, || text(&rollout, &job))?;
    Ok(Status::OK)
}

fn text(rollout: &RolloutView, job: &JobView) -> String {
    let state = |node: &NodeId| job.executions.iter().find(|e| e.node_id == *node);
    let rows: Vec<Vec<String>> = rollout
        .plan
        .batches
        .iter()
        .enumerate()
        .map(|(at, batch)| {
            let all: Vec<_> = batch.iter().filter_map(state).collect();
            let count = |wanted: fn(ExecutionState) -> bool| {
                all.iter().filter(|e| wanted(e.state)).count().to_string()
            };
            vec![
                (at + 1).to_string(),
                batch.len().to_string(),
                count(|s| s == ExecutionState::Held),
                count(|s| !s.is_final() && s != ExecutionState::Held),
                count(|s| s == ExecutionState::Succeeded),
                count(|s| s.is_final() && s != ExecutionState::Succeeded),
            ]
        })
        .collect();
    let table = table(&["batch", "nodes", "held", "at it", "succeeded", "others"], &rows);
    let why = match (rollout.state, rollout.resumes_at) {
        (RolloutState::Stopped, _) => format!(": {}", escape(&rollout.message)),
        (RolloutState::Pausing, Some(at)) => format!(" until {at}"),
        _ => String::new(),
    };
    let most = rollout.plan.max_failures;
    format!(
        "the hub says: batch {} of {}, {}{why}\n{} have not succeeded ({most} stop it, {} forgiven)\n{table}",
        rollout.batch,
        rollout.plan.batches.len(),
        rollout.state.as_str(),
        rollout.failed,
        rollout.forgiven,
    )
}
