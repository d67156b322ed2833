//! `lictor retry`: the same work signed again, as a new job that names the old one, for the nodes where it did not succeed.
//!
//! # Invariants
//! - Whether it succeeded is what a verified receipt says. Where there is none it may still run, and is not signed again.

use lictor_client::{Hub, JobOptions, Signer, TrustStore};
use lictor_proto::NodeId;
use lictor_proto::doc::{Job, Operation, Outcome, SecretUse, Spec};
use lictor_trust::directory::Node;

use crate::args::{Retry, UsedSecret};
use crate::commands::choice::Choice;
use crate::commands::dossier::Dossier;
use crate::commands::run::{How, Submitted, VALID, until};
use crate::commands::{confirm, rollout};
use crate::failure::{Failure, Result};
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: &Retry) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    dossier.all_hold()?;
    dossier.shows_all()?;
    let old = &dossier.job;
    is_shown(&old.spec)?;
    let mut choice = Choice::of(again(session, &dossier, args.failed)?, old.expect.clone());
    let plan = rollout::plan(&args.spread, &[], &mut choice);
    if args.dry_run {
        return choice.preview(session, &hub, plan.as_ref()).await;
    }
    let out = session.out;
    if old.operator == session.config.operator || args.yes {
        choice.agreed(session, args.yes)?;
    } else {
        out.line(dossier.describe())?;
        let names: Vec<_> = choice.nodes.iter().map(|n| n.name().as_str()).collect();
        out.line(format!("again on {} nodes: {}", names.len(), names.join(", ")))?;
        confirm::signing("It is another operator's job: look at it with `lictor job ID`, then use --yes.")?;
    }
    let key = session.key(None)?;
    let valid = rollout::valid(args.valid, VALID, &args.spread, &store)?;
    let options = JobOptions {
        stdin: old.stdin.clone(),
        retry_of: Some(old.digest()),
        secrets: secrets(session, (&hub, &store), old, &choice.nodes).await?,
        ..choice.job(&old.profile, valid, &old.reason)
    };
    let job = Signer::new(store.trust(), &session.config.operator, &key)
        .job(old.spec.clone(), options)
        .map_err(|r| Failure::refused("could not sign the job", &r))?;
    out.progress(format!(
        "{} tries it again on {} nodes",
        job.job_id(),
        choice.nodes.len()
    ));
    let submitted = Submitted {
        session,
        hub: &hub,
        store: &store,
        key: &key,
        nodes: &choice.nodes,
        job: job.digest,
    };
    let how = How {
        plan,
        detach: args.detach,
        until: until(args.wait),
    };
    submitted.send(&job, how).await
}

/// That its output is for people. What a job brings from a node goes where the command says that asked for it, and a job does
/// not: that place is on the machine of whoever asked.
fn is_shown(spec: &Spec) -> Result<()> {
    let again = match spec {
        Spec::Exec(_) | Spec::Script(_) | Spec::Fetch(_) => return Ok(()),
        Spec::Collect(_) => "lictor cp NODE:/path PLACE",
        Spec::Workspace(w) => match w.operation {
            Operation::List => "lictor workspace ls NODE",
            Operation::Show => "lictor workspace show NODE NAME",
            Operation::Diff => "lictor workspace diff NODE NAME",
            Operation::Clone
            | Operation::Fetch
            | Operation::Snapshot
            | Operation::Restore
            | Operation::Remove => return Ok(()),
        },
    };
    Err(
        Failure::new("nothing was signed: what this job brings is for the command that asked for it")
            .hint(format!("Ask for it again: {again}.")),
    )
}

/// The secrets of the same names, each in the version that is the newest now: a value that was changed since is not used again.
async fn secrets(
    session: &Session,
    (hub, store): (&Hub, &TrustStore),
    old: &Job,
    nodes: &[Node],
) -> Result<Vec<SecretUse>> {
    let wanted: Vec<_> = old.secrets.iter().map(UsedSecret::of).collect();
    let uses = super::secrets::uses(session, (hub, store), &wanted, nodes).await?;
    for (new, old) in uses.iter().zip(&old.secrets) {
        if new.version != old.version {
            let text = format!("secret {} version {}", new.name, new.version);
            session
                .out
                .note(format!("uses {text}; the job before had version {}", old.version));
        }
    }
    Ok(uses)
}

/// Where it did not succeed, by verified receipts; says of which nodes there is none.
fn again(session: &Session, dossier: &Dossier, failed: bool) -> Result<Vec<Node>> {
    let outcome = |id: &NodeId| {
        dossier
            .receipts
            .iter()
            .find(|r| r.node_id == *id)
            .map(|r| r.outcome)
    };
    let is_meant = |outcome: Outcome| match outcome {
        Outcome::Succeeded => false,
        Outcome::Failed | Outcome::TimedOut | Outcome::Interrupted => true,
        Outcome::Canceled | Outcome::Denied | Outcome::Expired => !failed,
    };
    dossier.tell_unproven(session.out);
    let without: Vec<_> = dossier
        .nodes
        .iter()
        .filter(|n| outcome(n.id()).is_none())
        .collect();
    if !without.is_empty() {
        let names: Vec<_> = without.iter().map(|n| n.name().as_str()).collect();
        let text = "left out, since no receipt says how it ended, and it may still run";
        session.out.note(format!("{text}: {}", names.join(", ")));
    }
    let nodes = dossier
        .nodes
        .iter()
        .filter(|n| outcome(n.id()).is_some_and(is_meant));
    let nodes: Vec<Node> = nodes.cloned().collect();
    if nodes.is_empty() {
        return Err(Failure::new("there is nothing to try again")
            .why("on no node does a receipt say that it did not succeed"));
    }
    Ok(nodes)
}
