//! `lictor approvals` and `lictor approve`: what waits for people, and a person's signature under one job.
//!
//! # Invariants
//! - What is shown before a signature is made comes from verified documents only; the hub's own words are not
//!   shown, and what does not verify cannot be approved.

mod asks;

use std::collections::BTreeSet;

use lictor_client::{Signer, TrustStore};
use lictor_policy::Law;
use lictor_proto::doc::{OpenGate, Says};
use lictor_proto::{Name, Timestamp};
use serde_json::{Value, json};

use self::asks::Asks;
use crate::args::Approve;
use crate::commands::dossier::{Dossier, shown};
use crate::commands::input::Input;
use crate::commands::{confirm, work};
use crate::escape::{command_line, escape};
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::table;
use crate::session::{Session, failed};

/// Nodes that a refusal names.
const NAMED: usize = 12;

pub(crate) async fn list(session: &Session) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let pending = hub
        .approvals()
        .await
        .map_err(|e| failed("list what waits for approval", &e))?;
    // Where nothing waits nothing is counted, and no law has to be in force for that.
    let law = match pending.is_empty() {
        true => None,
        false => Some(Law::load(&work::pinned(&store)?).doing("load the policies")?),
    };
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (one, law) in pending.into_iter().zip(law.iter().cycle()) {
        let Ok(job) = store.trust().historic_job(&one.documents.job) else {
            session.out.note(format!(
                "warning: the hub lists {}, which nobody of this org signed",
                one.job.job_id
            ));
            continue;
        };
        let dossier = Dossier::of(session, &hub, &mut store, (&job.id(), one.documents)).await?;
        for refusal in &dossier.refused {
            let text = escape(&refusal.to_string());
            session.out.note(format!("warning: {}: {text}", job.id()));
        }
        let (row, value) = pending_one(session, &store, law, &dossier)?;
        rows.push(row);
        values.push(value);
    }
    session.out.either(&values, || {
        let head = [
            "job",
            "operator",
            "asked",
            "waits for",
            "approvals",
            "expires",
            "reason",
            "command",
        ];
        table(&head, &rows)
    })?;
    Ok(Status::OK)
}

/// One job that waits, of which all but its being listed is verified.
fn pending_one(
    session: &Session,
    store: &TrustStore,
    law: &Law,
    dossier: &Dossier,
) -> Result<(Vec<String>, Value)> {
    let job = &dossier.job;
    let asks = Asks::of(dossier);
    let held = store.trust().law(Timestamp::now());
    let held = held.map_err(|r| Failure::refused("the pinned law is not in force", &r))?;
    let wanted = asks.wanted(law, &held.roster, &session.config.operator);
    let approved = asks.approved_by();
    let rejected: BTreeSet<&Name> = dossier
        .remarks
        .iter()
        .filter(|r| r.says == Says::Rejected)
        .map(|r| &r.operator)
        .collect();
    let against = match rejected.len() {
        0 => String::new(),
        n => format!(", {n} against"),
    };
    let mut names: Vec<&str> = dossier.nodes.iter().map(|n| n.name().as_str()).collect();
    names.sort_unstable();
    let nodes = match (names.as_slice(), job.nodes.len()) {
        ([one], 1) => (*one).to_owned(),
        (_, all) => format!("{} of {all} nodes", asks.len()),
    };
    let waits: Vec<String> = wanted.iter().map(asks::Wanted::text).collect();
    let row = vec![
        job.id().to_string(),
        job.operator.to_string(),
        nodes,
        waits.join("; "),
        format!("{} so far{against}", approved.len()),
        job.expires_at.to_string()[..19].to_owned(),
        escape(&job.reason),
        command_line(&job.spec.words()),
    ];
    let value = json!({
        "job_id": job.id(), "operator": job.operator, "kind": job.kind, "command": job.spec.words(), "reason": job.reason,
        "expires_at": job.expires_at, "approvals": approved.len(), "approved_by": approved,
        "rejected_by": rejected, "nodes": names, "asked": asks.len(), "of": job.nodes.len(),
        "waits_for": wanted.iter().map(asks::Wanted::json).collect::<Vec<_>>(),
    });
    Ok((row, value))
}

pub(crate) async fn approve(session: &Session, args: &Approve) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::current(session, &hub, &mut store, &args.id).await?;
    let approver = args.approver.as_ref().unwrap_or(&session.config.operator);
    if *approver == dossier.job.operator {
        return Err(Failure::new(format!("{approver} asked for this job"))
            .code(lictor_proto::Code::SelfApproval)
            .exit(crate::exit::DENIED));
    }
    dossier.all_hold()?;
    dossier.shows_all()?;
    let asks = Asks::of(&dossier);
    if session.out.is_json() {
        if !args.yes {
            return Err(
                Failure::new("nothing was signed: with --json nobody is shown the job and asked")
                    .hint("Look at it with `lictor job ID`, then use --yes."),
            );
        }
        all_asked(&asks, args.unasked)?;
    } else {
        let job = (&args.id, &*dossier.job);
        let input = Input::of(&hub, job, args.input.as_deref()).await?;
        session.out.line(question(&dossier, &asks, &input))?;
        all_asked(&asks, args.unasked)?;
        if !args.yes {
            confirm::signing("Look at it with `lictor job ID`, then use --yes.")?;
        }
    }
    let key = session.key(args.key.as_ref().or(args.approver.as_ref()))?;
    let approval = Signer::new(store.trust(), approver, &key)
        .approval(dossier.job.digest(), asks.facts(), args.valid)
        .map_err(|r| Failure::refused("could not sign the approval", &r))?;
    hub.approve(&args.id, &approval.wire)
        .await
        .map_err(|e| failed("hand in the approval", &e))?;
    let value = json!({
        "job_id": args.id, "approver": approver, "approval": approval.digest, "asked": asks.len(), "of": dossier.job.nodes.len(),
    });
    session
        .out
        .either(&value, || format!("{approver} approved {}", args.id))?;
    Ok(Status::OK)
}

/// Nobody signs for what a node has not said, unless they say so: a hub that withholds an ask withholds what it found out.
fn all_asked(asks: &Asks<'_>, unasked: bool) -> Result<()> {
    let silent = asks.silent();
    if unasked || silent.is_empty() && asks.len() > 0 {
        return Ok(());
    }
    let names: Vec<_> = silent.iter().take(NAMED).map(String::as_str).collect();
    let more = match silent.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let failure = Failure::new(format!("nothing was signed: {}", asks.sum()));
    let failure = match names.is_empty() {
        true => failure,
        false => failure.why(format!("not yet: {}{more}", names.join(", "))),
    };
    Err(failure.hint(
        "Wait until they have; or say --unasked: the approval then counts for them as well, but for rules that bind it to \
         what a node found out.",
    ))
}

/// What is about to be signed, in full.
fn question(dossier: &Dossier, asks: &Asks<'_>, input: &Input) -> String {
    let mut lines = vec![dossier.describe()];
    match input {
        Input::None => {}
        Input::Text(text) => {
            lines.push("brings     what is signed by its digest above:".to_owned());
            lines.extend(shown(text));
        }
        Input::Held(path) => lines.push(format!("brings     exactly {path}")),
    }
    lines.extend(asks.lines());
    lines.extend(dossier.said_about_it());
    lines.join("\n")
}

/// What a gate waits for.
pub(crate) fn gate_text(gate: &OpenGate) -> String {
    let id = escape(&gate.policy_id);
    match gate.release {
        true => format!("somebody of {} must release it on this node ({id})", gate.group),
        false => format!("{} of {} must approve ({id})", gate.n, gate.group),
    }
}

/// The facts as lines; as they are when they are no JSON object.
fn facts(text: &str) -> Vec<String> {
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
        Ok(map) => map
            .iter()
            .map(|(k, v)| format!("    {} = {}", escape(k), escape(&v.to_string())))
            .collect(),
        Err(_) => vec![format!("    {}", escape(text))],
    }
}
