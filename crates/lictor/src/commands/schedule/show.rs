//! `lictor schedule show`: the signed schedule, who keeps it, when it comes next, and what was fired, with receipts.

use lictor_proto::api::{ExecutionState, ExecutionView, JobView};
use lictor_proto::doc::Schedule;
use lictor_proto::{Digest, Timestamp};
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
    let last = match args.firings {
        0 => Vec::new(),
        n => hub
            .firings(&args.id, n, None)
            .await
            .map_err(|e| failed("list what was fired", &e))?,
    };
    let mut firings = Vec::with_capacity(last.len());
    for firing in last {
        let of = Dossier::fetch(session, &hub, &mut store, &firing.job_id).await?;
        // What belongs to another schedule is not shown as one of this, whatever list it stands in.
        if of.job.fired().is_none_or(|f| f.schedule != dossier.job.digest()) {
            let why = format!("{} is no firing of {}", firing.job_id, args.id);
            return Err(Failure::new("the hub answered with another job").why(why));
        }
        firings.push(of);
    }
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
        "firings": firings.iter().map(firing_value).collect::<Vec<_>>(),
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
        lines.extend(firings.iter().flat_map(firing_lines));
        lines.join("\n")
    })?;
    Ok(Status::OK)
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

fn firing_value(of: &Dossier) -> Value {
    json!({
        "job_id": of.job.id(),
        "nominal": of.job.fired().map(|f| f.nominal),
        "receipts": of.receipts.iter().map(|r| r.doc()).collect::<Vec<_>>(),
        "refused": of.refused,
    })
}

fn firing_lines(of: &Dossier) -> Vec<String> {
    let nominal = of.job.fired().map_or_else(String::new, |f| second(f.nominal));
    let mut lines: Vec<_> = of
        .receipts
        .iter()
        .map(|r| {
            let name = of.nodes.iter().find(|n| *n.id() == r.node_id);
            let name = name.map_or(r.node_id.as_str(), |n| n.name().as_str());
            let why = r.code.map_or_else(String::new, |c| format!(" [{c}]"));
            format!(
                "fired      {nominal} on {name}: {}{why}, {}",
                outcome(r.outcome),
                of.job.id()
            )
        })
        .collect();
    let refused = of.refused.iter();
    lines.extend(refused.map(|r| format!("DOES NOT HOLD: {}", escape(&r.to_string()))));
    lines
}

/// A time to the minute, as schedules are.
pub(super) fn minute(time: Timestamp) -> String {
    format!("{}Z", &time.to_string()[..16])
}

fn second(time: Timestamp) -> String {
    format!("{}Z", &time.to_string()[..19])
}
