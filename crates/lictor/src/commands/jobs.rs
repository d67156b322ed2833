//! `lictor jobs` and `lictor job`: the hub's list, and one job with everything that is proven about it.

use std::collections::BTreeMap;

use lictor_client::Hub;
use lictor_proto::api::{ExecutionState, ExecutionView, JobView, Page};
use lictor_proto::doc::{Exit, Receipt};
use lictor_proto::{Code, JobId, NodeId};
use serde_json::json;

use crate::args::{JobRef, JobsList};
use crate::commands::approvals::gate_text;
use crate::commands::dossier::{Dossier, Unproven};
use crate::commands::result::word;
use crate::commands::{attempts, limits};
use crate::escape::{command_line, escape};
use crate::exit::Status;
use crate::failure::Result;
use crate::out::table;
use crate::session::{Session, failed};

pub(crate) async fn list(session: &Session, args: &JobsList) -> Result {
    let hub = session.hub()?;
    let mut jobs: Vec<JobView> = Vec::new();
    let mut cursor: Option<String> = None;
    let state = args.queued.then_some(ExecutionState::Queued);
    let node = match &args.node {
        Some(text) => Some(listed(session, &hub, text).await?),
        None => None,
    };
    let wanted = args.limit as usize;
    while jobs.len() < wanted {
        let limit = args.limit.min(200);
        let page: Page<JobView> = hub
            .jobs(limit, cursor.as_deref(), state, node.as_ref())
            .await
            .map_err(|e| failed("list the jobs", &e))?;
        jobs.extend(page.items);
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => break,
        }
    }
    jobs.truncate(wanted);
    session.out.either(&jobs, || {
        let rows: Vec<_> = jobs.iter().map(row).collect();
        table(&["job", "state", "node", "operator", "created", "command"], &rows)
    })?;
    Ok(Status::OK)
}

/// A node whose list is wanted. An id is taken as it is, also one that nothing proves any more: what was left for a machine
/// that was revoked can be looked for.
pub(crate) async fn listed(session: &Session, hub: &Hub, text: &str) -> Result<NodeId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let mut store = session.fresh_trust(hub).await?;
    Ok(session.node(&mut store, hub, text).await?.id().clone())
}

/// Where the hub says that it stands.
fn state(one: &ExecutionView) -> String {
    let why = match one.code {
        Some(Code::NodeOffline) => " (offline)",
        Some(Code::AfterWaiting) => " (after another)",
        Some(Code::Canceled) if matches!(one.state, ExecutionState::Queued | ExecutionState::Held) => {
            " (cancel waits)"
        }
        _ => "",
    };
    format!("{}{why}", one.state.as_str())
}

/// The states of a job on its nodes in a few words, and which nodes these are.
pub(crate) fn where_it_stands(job: &JobView, state: impl Fn(&ExecutionView) -> String) -> (String, String) {
    match job.executions.as_slice() {
        [one] => (state(one), one.node_name.to_string()),
        many => {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for one in many {
                *counts.entry(state(one)).or_default() += 1;
            }
            let counts: Vec<_> = counts.iter().map(|(s, n)| format!("{n} {s}")).collect();
            (counts.join(", "), format!("{} nodes", many.len()))
        }
    }
}

/// The beginning of a command line.
pub(crate) fn short(command: &str) -> String {
    if command.chars().count() > 60 {
        return command.chars().take(59).chain(['…']).collect();
    }
    command.to_owned()
}

fn row(job: &JobView) -> Vec<String> {
    let (state, node) = where_it_stands(job, state);
    let created = job.created_at.to_string();
    // What stands, or was fired, looks like a job otherwise.
    let mark = match (&job.schedule, &job.fired) {
        (Some(_), _) => "(schedule) ",
        (None, Some(_)) => "(scheduled) ",
        (None, None) => "",
    };
    vec![
        job.job_id.to_string(),
        state,
        node,
        job.operator.to_string(),
        created[..19].to_owned(),
        format!("{mark}{}", short(&command_line(&job.command))),
    ]
}

pub(crate) async fn show(session: &Session, args: &JobRef) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let view = hub
        .job(&args.id)
        .await
        .map_err(|e| failed(&format!("fetch job {}", args.id), &e))?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    let receipts: Vec<&Receipt> = dossier.receipts.iter().map(|r| r.doc()).collect();
    let value = json!({
        "job": &*dossier.job,
        "job_id": args.id,
        "digest": dossier.job.digest(),
        "executions": view.executions,
        "unproven": dossier.unproven.iter().map(Unproven::json).collect::<Vec<_>>(),
        "asks": dossier.asks.iter().map(|a| a.doc()).collect::<Vec<_>>(),
        "approvals": dossier.approvals.iter().map(|a| a.doc()).collect::<Vec<_>>(),
        "releases": dossier.releases.iter().map(|r| r.doc()).collect::<Vec<_>>(),
        "receipts": receipts,
        "remarks": dossier.remarks.iter().map(|r| r.doc()).collect::<Vec<_>>(),
        "refused": dossier.refused,
    });
    session.out.either(&value, || text(&view, &dossier))?;
    Ok(Status::OK)
}

fn text(view: &JobView, dossier: &Dossier) -> String {
    let mut lines = vec![dossier.describe()];
    for e in &view.executions {
        let why = e
            .code
            .map_or_else(String::new, |c| format!(" [{c}] {}", escape(&e.message)));
        let ahead = match e.ahead {
            Some(n @ 1..) => format!(", {n} before it"),
            _ => String::new(),
        };
        lines.push(format!(
            "on {}: the hub says {}{ahead}{why}",
            e.node_name,
            e.state.as_str()
        ));
    }
    for ask in &dossier.asks {
        for gate in &ask.gates {
            lines.push(format!("asks       {}", gate_text(gate)));
        }
    }
    for approval in &dossier.approvals {
        lines.push(format!(
            "approved   by {} at {}",
            approval.approver, approval.issued_at
        ));
    }
    for release in &dossier.releases {
        lines.push(format!(
            "released   by {} on {} nodes at {}",
            release.operator,
            release.nodes.len(),
            release.issued_at
        ));
    }
    lines.extend(dossier.said_about_it());
    lines.extend(dossier.receipts.iter().map(|r| receipt(r.doc())));
    for refusal in &dossier.refused {
        lines.push(format!("DOES NOT HOLD: {}", escape(&refusal.to_string())));
    }
    lines.join("\n")
}

/// Who made a container, where that is known.
fn by(engine: Option<&str>) -> String {
    engine.map_or_else(String::new, |engine| format!(" by {}", escape(engine)))
}

/// A verified receipt in words.
pub(crate) fn receipt(r: &Receipt) -> String {
    let exit = match r.exit {
        Some(Exit::Status(n)) => format!(", exit status {n}"),
        Some(Exit::Signal(n)) => format!(", signal {n}"),
        None => String::new(),
    };
    let mut lines = vec![format!(
        "receipt    {}{exit} (number {} of {})",
        word(r.outcome),
        r.node_seq,
        r.node_id
    )];
    if let Some(code) = r.code {
        lines.push(format!("reason     [{code}] {}", escape(&r.message)));
    }
    if let Some(fired) = &r.fired {
        let id = JobId::from_digest(&fired.schedule);
        lines.push(format!("fired      for {} by the schedule {id}", fired.nominal));
    }
    if !r.policy_ids.is_empty() {
        lines.push(format!("rules      {}", escape(&r.policy_ids.join(", "))));
    }
    if let Some(b) = &r.backend {
        lines.push(format!(
            "sandbox    {}{} ({})",
            escape(&b.name),
            by(b.engine.as_deref()),
            escape(&b.capabilities.join(", "))
        ));
    }
    if let Some(image) = r.backend.as_ref().and_then(|b| b.rootfs) {
        lines.push(format!("image      {image}, of the index that the profile names"));
    }
    if let Some(kept) = &r.sandbox {
        let since = if kept.new { "made for it at" } else { "kept since" };
        lines.push(format!("kept       {} ({since} {})", kept.name, kept.made_at));
    }
    if let Some(totals) = &r.egress {
        lines.push(format!("egress     {}", attempts::totals(totals)));
    }
    if let Some(started) = r.started_at {
        lines.push(format!("ran        {started} to {}", r.finished_at));
    }
    if let Some(u) = r.usage {
        lines.push(format!("used       {}", limits::used(&u)));
    }
    let met = limits::met(r);
    lines.extend(met.iter().map(|met| format!("limit met  {met}")));
    for (name, s) in [("stdout", &r.stdout), ("stderr", &r.stderr)] {
        let cut = if s.truncated() { ", not all of it kept" } else { "" };
        lines.push(format!("{name}     {} bytes{cut}, {}", s.bytes, s.sha256));
    }
    lines.join("\n")
}
