//! `lictor schedule`: standing work, signed here, kept and fired by its nodes.
//!
//! A schedule has an id like a job's, and is shown and ended like one; what nodes fire of it are jobs of their own.

mod show;

use std::time::Duration;

use lictor_client::{JobOptions, Recurrence, Signer, TrustStore};
use lictor_proto::Timestamp;
use lictor_proto::api::JobView;
use lictor_proto::doc::Missed;
use lictor_proto::timetable::Timetable;
use serde_json::json;

use crate::args::{Cancel, Schedule, ScheduleAdd, ScheduleCommand, ScheduleLs};
use crate::commands::{cancel, choice, jobs, work};
use crate::escape::{command_line, escape};
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::out::table;
use crate::session::{Session, failed};

/// How long a firing may wait to begin, where nobody says so.
const SOON: Duration = Duration::from_secs(5 * 60);
/// The same where missed times are made up for, as far as the law allows.
const LATER: Duration = Duration::from_secs(12 * 3600);

pub(crate) async fn run(session: &Session, args: &Schedule) -> Result {
    match &args.command {
        ScheduleCommand::Add(args) => add(session, args).await,
        ScheduleCommand::Ls(args) => list(session, args).await,
        ScheduleCommand::Show(args) => show::run(session, args).await,
        ScheduleCommand::Rm(args) => {
            let end = Cancel {
                reason: args.reason.clone(),
                nodes: args.nodes.clone(),
                id: Some(args.id.clone()),
                queued: false,
                yes: false,
            };
            cancel::run(session, &end).await
        }
    }
}

async fn add(session: &Session, args: &ScheduleAdd) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let choice = choice::nodes(session, &mut store, &hub, &args.targets).await?;
    let table = Timetable::new(&args.cron, &args.tz)
        .map_err(|e| Failure::new("the schedule has no times").because(&e))?;
    if args.dry_run {
        return choice.preview(session, &hub, None).await;
    }
    choice.agreed(session, args.yes)?;
    let key = session.key(args.key.as_ref())?;
    let terms = work::ProcessTerms {
        env: &args.env,
        cwd: args.cwd.as_ref(),
        sandbox: args.sandbox.as_ref(),
        timeout: args.timeout,
        terms: args.terms.of_job(),
        git: None,
    };
    let spec = work::under(work::of(&args.what, || work::pinned(&store))?, &terms);
    let options = JobOptions {
        secrets: super::secrets::uses(session, (&hub, &store), &args.secrets, &choice.nodes).await?,
        ..choice.job(&args.profile, args.until, &args.reason)
    };
    let when = Recurrence {
        cron: args.cron.clone(),
        tz: args.tz.clone(),
        jitter: args.jitter,
        missed: args.missed,
        overlap: args.overlap,
        start_within: start_within(args, &store)?,
    };
    let signed = Signer::new(store.trust(), &session.config.operator, &key)
        .schedule(spec, options, when)
        .map_err(|r| Failure::refused("could not sign the schedule", &r))?;
    let view = hub
        .submit_schedule(&signed.wire)
        .await
        .map_err(|e| failed("submit the schedule", &e))?;
    if view.job_id != signed.job_id() {
        let why = format!("it calls the schedule {}", escape(view.job_id.as_str()));
        return Err(Failure::new("the hub took another schedule than the one submitted").why(why));
    }
    let nodes: Vec<_> = view.executions.iter().map(|e| &e.node_id).collect();
    let next = table.after(Timestamp::now());
    let value = json!({ "event": "scheduled", "job_id": signed.job_id(), "nodes": nodes, "next": next });
    session.out.either(&value, || signed.job_id().to_string())?;
    Ok(Status::OK)
}

fn start_within(args: &ScheduleAdd, store: &TrustStore) -> Result<Duration> {
    match (args.start_within, args.missed) {
        (Some(said), _) => Ok(said),
        (None, Missed::Skip) => Ok(SOON),
        (None, Missed::Once) => {
            let most = work::pinned(store)?.fleet.max_job_validity;
            Ok(LATER.min(most.saturating_sub(args.jitter)))
        }
    }
}

async fn list(session: &Session, args: &ScheduleLs) -> Result {
    let hub = session.hub()?;
    let node = match &args.node {
        Some(text) => Some(jobs::listed(session, &hub, text).await?),
        None => None,
    };
    let wanted = args.limit as usize;
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    while found.len() < wanted {
        let page = hub
            .schedules(args.limit.min(200), cursor.as_deref(), node.as_ref())
            .await
            .map_err(|e| failed("list the schedules", &e))?;
        found.extend(page.items);
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => break,
        }
    }
    found.truncate(wanted);
    session.out.either(&found, || {
        let rows: Vec<_> = found.iter().map(row).collect();
        let head = [
            "schedule", "state", "node", "operator", "cron", "zone", "next", "ends", "command",
        ];
        table(&head, &rows)
    })?;
    Ok(Status::OK)
}

fn row(view: &JobView) -> Vec<String> {
    let (state, node) = jobs::where_it_stands(view, show::word);
    let when = view.schedule.as_ref();
    let text = |f: fn(&lictor_proto::api::ScheduleView) -> String| when.map(f).unwrap_or_default();
    let table = when.and_then(|w| Timetable::new(&w.cron, &w.tz).ok());
    let is_open = view.executions.iter().any(|e| !e.state.is_final());
    let next = table.filter(|_| is_open).and_then(|t| t.after(Timestamp::now()));
    let next = next.filter(|t| *t < view.expires_at);
    vec![
        view.job_id.to_string(),
        state,
        node,
        view.operator.to_string(),
        escape(&text(|w| w.cron.clone())),
        escape(&text(|w| w.tz.clone())),
        next.map_or_else(|| "-".to_owned(), show::minute),
        text(|w| show::minute(w.ends_at)),
        jobs::short(&command_line(&view.command)),
    ]
}
