//! `lictor approvals` and `lictor approve`: what waits for people, and a person's signature under one job.
//!
//! # Invariants
//! - What is shown before a signature is made comes from verified documents only; the hub's own words are not
//!   shown, and what does not verify cannot be approved.

use std::collections::BTreeSet;

use lictor_client::Signer;
use lictor_proto::doc::{ApprovalFacts, OpenGate, Says};
use lictor_proto::{Name, Timestamp};
use serde_json::json;

use crate::args::Approve;
use crate::commands::confirm;
use crate::commands::dossier::{Dossier, shown};
use crate::commands::input::Input;
use crate::escape::{command_line, escape};
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::out::table;
use crate::session::{Session, failed};

pub(crate) async fn list(session: &Session) -> Result {
    let hub = session.hub()?;
    let store = session.fresh_trust(&hub).await?;
    let pending = hub
        .approvals()
        .await
        .map_err(|e| failed("list what waits for approval", &e))?;
    let now = Timestamp::now();
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for one in &pending {
        let Ok(job) = store.trust().historic_job(&one.documents.job) else {
            session.out.note(format!(
                "warning: the hub lists {}, which nobody of this org signed",
                one.job.job_id
            ));
            continue;
        };
        let have = one.documents.approvals.len();
        let digest = job.digest();
        let remarks = one.documents.remarks.iter();
        let remarks = remarks.filter_map(|wire| store.trust().verify_remark(wire, now).ok());
        let rejected: BTreeSet<Name> = remarks
            .filter(|r| r.job_digest == digest && r.says == Says::Rejected)
            .map(|r| r.operator.clone())
            .collect();
        let against = match rejected.len() {
            0 => String::new(),
            n => format!(", {n} against"),
        };
        rows.push(vec![
            job.id().to_string(),
            job.operator.to_string(),
            job.expires_at.to_string()[..19].to_owned(),
            format!("{have} so far{against}"),
            command_line(&job.spec.words()),
        ]);
        values.push(json!({
            "job_id": job.id(), "operator": job.operator, "kind": job.kind, "command": job.spec.words(), "reason": job.reason,
            "expires_at": job.expires_at, "approvals": have,
            "rejected_by": rejected,
        }));
    }
    session.out.either(&values, || {
        table(&["job", "operator", "expires", "approvals", "command"], &rows)
    })?;
    Ok(Status::OK)
}

pub(crate) async fn approve(session: &Session, args: &Approve) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    // Its requester may hold law that came a moment ago.
    let checked = store.trust().verify_job(&dossier.wire, Timestamp::now());
    if checked.is_err_and(|r| r.code == lictor_proto::Code::StaleBundle) {
        session.refresh(&mut store, &hub).await?;
    }
    store
        .trust()
        .verify_job(&dossier.wire, Timestamp::now())
        .map_err(|r| Failure::refused(format!("job {} cannot run any more", args.id), &r))?;
    let approver = args.approver.as_ref().unwrap_or(&session.config.operator);
    if *approver == dossier.job.operator {
        return Err(Failure::new(format!("{approver} asked for this job"))
            .code(lictor_proto::Code::SelfApproval)
            .exit(crate::exit::DENIED));
    }
    dossier.shows_all()?;
    if session.out.is_json() {
        if !args.yes {
            return Err(
                Failure::new("nothing was signed: with --json nobody is shown the job and asked")
                    .hint("Look at it with `lictor job ID`, then use --yes."),
            );
        }
    } else {
        let job = (&args.id, &*dossier.job);
        let input = Input::of(&hub, job, args.input.as_deref()).await?;
        session.out.line(question(&dossier, &input))?;
        if !args.yes {
            confirm::signing("Look at it with `lictor job ID`, then use --yes.")?;
        }
    }
    let key = session.key(args.key.as_ref().or(args.approver.as_ref()))?;
    let facts = dossier.asks.iter().map(|ask| ApprovalFacts {
        node_id: ask.node_id.clone(),
        facts_digest: ask.facts_digest,
    });
    let approval = Signer::new(store.trust(), approver, &key)
        .approval(dossier.job.digest(), facts.collect(), args.valid)
        .map_err(|r| Failure::refused("could not sign the approval", &r))?;
    hub.approve(&args.id, &approval.wire)
        .await
        .map_err(|e| failed("hand in the approval", &e))?;
    let value = json!({ "job_id": args.id, "approver": approver, "approval": approval.digest });
    session
        .out
        .either(&value, || format!("{approver} approved {}", args.id))?;
    Ok(Status::OK)
}

/// What is about to be signed, in full.
fn question(dossier: &Dossier, input: &Input) -> String {
    let mut lines = vec![dossier.describe()];
    match input {
        Input::None => {}
        Input::Text(text) => {
            lines.push("brings     what is signed by its digest above:".to_owned());
            lines.extend(shown(text));
        }
        Input::Held(path) => lines.push(format!("brings     exactly {path}")),
    }
    for ask in &dossier.asks {
        lines.push(format!(
            "\n{} asks, under law {}:",
            ask.node_id, ask.bundle_version
        ));
        for gate in &ask.gates {
            lines.push(format!("  {}", gate_text(gate)));
        }
        lines.push("  it found out:".to_owned());
        lines.extend(facts(&ask.facts));
    }
    if dossier.asks.is_empty() {
        lines.push("\nno node has asked for an approval of this job yet".to_owned());
    }
    lines.extend(dossier.said_about_it());
    for refusal in &dossier.refused {
        lines.push(format!("DOES NOT HOLD: {}", escape(&refusal.to_string())));
    }
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
