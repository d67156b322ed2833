//! `lictor schedule show`: the signed schedule, who keeps it, when it comes next, and what was fired, with receipts.

use lictor_client::{Hub, TrustStore};
use lictor_proto::api::{ExecutionState, ExecutionView, JobView};
use lictor_proto::code::Refusal;
use lictor_proto::doc::Schedule;
use lictor_proto::{Code, Digest, NodeId, Timestamp};
use lictor_trust::directory::Node;
use serde_json::{Value, json};

use crate::args::ScheduleShow;
use crate::commands::dossier::{Dossier, Unproven};
use crate::commands::result::word as outcome;
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

/// Next times that are shown of each node.
const NEXT: usize = 3;

pub(super) async fn run(session: &Session, args: &ScheduleShow) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let view = hub
        .job(&args.id)
        .await
        .map_err(|e| failed(&format!("fetch schedule {}", args.id), &e))?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    let schedule = store.trust().historic_schedule(&dossier.wire).map_err(|r| {
        Failure::refused(format!("{} is no schedule", args.id), &r).hint("`lictor job ID` shows a job.")
    })?;
    let firings = firings(session, (&hub, &mut store), args, &dossier).await?;
    let next = |node: &Node| times(schedule.doc(), &dossier.job.digest(), node);
    let value = json!({
        "schedule": schedule.doc(),
        "job_id": args.id,
        "digest": dossier.job.digest(),
        "nodes": dossier.nodes.iter().map(|n| json!({
            "node_id": n.id(), "name": n.name(),
            "state": view.executions.iter().find(|e| e.node_id == *n.id()).map(|e| e.state),
            "next": if is_open(&view, n) { next(n) } else { Vec::new() },
        })).collect::<Vec<_>>(),
        "unproven": dossier.unproven.iter().map(Unproven::json).collect::<Vec<_>>(),
        "receipts": dossier.receipts.iter().map(|r| r.doc()).collect::<Vec<_>>(),
        "firings": firings.iter().map(|(view, of)| firing_value(view, of.as_ref())).collect::<Vec<_>>(),
        "refused": dossier.refused,
    });
    session.out.either(&value, || {
        let mut lines = vec![dossier.describe(), described(schedule.doc())];
        for node in &dossier.nodes {
            let said = view.executions.iter().find(|e| e.node_id == *node.id());
            lines.push(format!(
                "on {}: {}",
                node.name(),
                said.map_or_else(String::new, state)
            ));
            if is_open(&view, node) {
                let next: Vec<_> = next(node).into_iter().map(second).collect();
                lines.push(format!("next       {}", next.join(", ")));
            }
        }
        lines.extend(
            dossier
                .receipts
                .iter()
                .map(|r| crate::commands::jobs::receipt(r.doc())),
        );
        lines.extend(
            firings
                .iter()
                .flat_map(|(view, of)| firing_lines(view, of.as_ref())),
        );
        lines.join("\n")
    })?;
    Ok(Status::OK)
}

/// The newest of what it has fired; of one that does not hold by this program's time zones the hub's word only.
async fn firings(
    session: &Session,
    (hub, store): (&Hub, &mut TrustStore),
    args: &ScheduleShow,
    schedule: &Dossier,
) -> Result<Vec<(JobView, Option<Dossier>)>> {
    let last = match args.firings {
        0 => Vec::new(),
        n => hub
            .firings(&args.id, n, None)
            .await
            .map_err(|e| failed("list what was fired", &e))?,
    };
    let mut firings = Vec::with_capacity(last.len());
    for view in last {
        let of = match Dossier::fetch(session, hub, store, &view.job_id).await {
            // A node with other time zones, or a hub that says what is not so: named, and no reason to show no other.
            Err(failure) if failure.is_about(Code::NotYetValid) => {
                firings.push((view, None));
                continue;
            }
            of => of?,
        };
        // What belongs to another schedule is not shown as one of this, whatever list it stands in.
        if of.job.fired().is_none_or(|f| f.schedule != schedule.job.digest()) {
            let why = format!("{} is no firing of {}", view.job_id, args.id);
            return Err(Failure::new("the hub answered with another job").why(why));
        }
        firings.push((view, Some(of)));
    }
    Ok(firings)
}

/// Where the hub says that a schedule stands on a node, in one word.
pub(super) fn word(one: &ExecutionView) -> String {
    match one.state {
        ExecutionState::Leased | ExecutionState::Running => "kept".to_owned(),
        ExecutionState::Lost => "kept (away)".to_owned(),
        ExecutionState::Expired => "ended".to_owned(),
        state => state.as_str().to_owned(),
    }
}

fn state(one: &ExecutionView) -> String {
    let why = one
        .code
        .map_or_else(String::new, |c| format!(" [{c}] {}", escape(&one.message)));
    format!("the hub says {}{why}", word(one))
}

fn is_open(view: &JobView, node: &Node) -> bool {
    let mut executions = view.executions.iter();
    executions.any(|e| e.node_id == *node.id() && !e.state.is_final())
}

/// The next times of a node, its part of the jitter included: computed here from the signed schedule.
fn times(schedule: &Schedule, digest: &Digest, node: &Node) -> Vec<Timestamp> {
    let offset = schedule.offset(digest, node.id());
    let Ok(table) = schedule.timetable() else {
        return Vec::new();
    };
    let mut time = Timestamp::now().max(schedule.not_before);
    let mut next = || {
        time = table.after(time).filter(|t| *t < schedule.ends_at)?;
        Some(time.plus(offset))
    };
    (0..NEXT).map_while(|_| next()).collect()
}

fn described(schedule: &Schedule) -> String {
    let duration = |ms: u64| format!("{:?}", std::time::Duration::from_millis(ms));
    [
        format!("fires      {} ({})", escape(&schedule.cron), escape(&schedule.tz)),
        format!("jitter     {}", duration(schedule.jitter_ms)),
        format!("missed     {}", schedule.missed.as_str()),
        format!("overlap    {}", schedule.overlap.as_str()),
        format!("begins     within {}", duration(schedule.start_within_ms)),
        format!("ends       {}", schedule.ends_at),
    ]
    .join("\n")
}

/// What it is where it could be no firing by what is known here.
fn unjudged() -> Refusal {
    let why = "it is no time of the schedule by the time zones that are known here";
    Refusal::new(Code::NotYetValid, why)
}

fn firing_value(view: &JobView, of: Option<&Dossier>) -> Value {
    let executions = view.executions.iter();
    let executions = executions.map(|e| json!({ "node_id": e.node_id, "state": e.state }));
    json!({
        "job_id": view.job_id,
        "nominal": view.fired.map(|f| f.nominal),
        "executions": executions.collect::<Vec<_>>(),
        "receipts": of.map_or_else(Vec::new, |of| of.receipts.iter().map(|r| r.doc()).collect()),
        "refused": of.map_or_else(|| vec![unjudged()], |of| of.refused.clone()),
    })
}

fn firing_lines(view: &JobView, of: Option<&Dossier>) -> Vec<String> {
    let nominal = view.fired.map_or_else(String::new, |f| second(f.nominal));
    let id = &view.job_id;
    let Some(of) = of else {
        let why = unjudged();
        return vec![format!(
            "DOES NOT HOLD: {id} at {nominal}: [{}] {}",
            why.code, why.message
        )];
    };
    let name = |node: &NodeId| {
        let known = of.nodes.iter().find(|n| n.id() == node);
        known.map_or(node.as_str(), |n| n.name().as_str()).to_owned()
    };
    let ended = of.receipts.iter().map(|r| {
        let why = r.code.map_or_else(String::new, |c| format!(" [{c}]"));
        let how = outcome(r.outcome);
        format!("fired      {nominal} on {}: {how}{why}, {id}", name(&r.node_id))
    });
    // Where no receipt says more, the hub's word.
    let others = view.executions.iter();
    let others = others.filter(|e| of.receipts.iter().all(|r| r.node_id != e.node_id));
    let others = others.map(|e| {
        let state = e.state.as_str();
        format!(
            "fired      {nominal} on {}: the hub says {state}, {id}",
            name(&e.node_id)
        )
    });
    let refused = of.refused.iter();
    let refused = refused.map(|r| format!("DOES NOT HOLD: {}", escape(&r.to_string())));
    ended.chain(others).chain(refused).collect()
}

/// A time to the minute, as schedules are.
pub(super) fn minute(time: Timestamp) -> String {
    format!("{}Z", &time.to_string()[..16])
}

fn second(time: Timestamp) -> String {
    format!("{}Z", &time.to_string()[..19])
}
