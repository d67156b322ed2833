//! `lictor retry`: the same work signed again, as a new job that names the old one, for the nodes where it did not succeed.
//!
//! # Invariants
//! - Whether it succeeded is what a verified receipt says. Where there is none it may still run, and is not signed again.

use lictor_client::{Hub, JobOptions, Signer, TrustStore};
use lictor_proto::NodeId;
use lictor_proto::doc::{Job, Outcome, SecretUse};
use lictor_trust::directory::Node;

use crate::args::{Retry, UsedSecret};
use crate::commands::confirm;
use crate::commands::dossier::Dossier;
use crate::commands::fleet::FleetUntil;
use crate::commands::run::{Submitted, detach};
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Retry) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    dossier.all_hold()?;
    dossier.shows_all()?;
    let nodes = again(session, &dossier, args.failed)?;
    let out = session.out;
    if dossier.job.operator != session.config.operator && !args.yes {
        out.line(dossier.describe())?;
        confirm::signing("It is another operator's job: look at it with `lictor job ID`, then use --yes.")?;
    }
    let key = session.key(None)?;
    let old = &dossier.job;
    let secrets = secrets(session, (&hub, &store), old, &nodes).await?;
    let options = JobOptions {
        nodes: nodes.iter().map(|n| n.id().clone()).collect(),
        profile: old.profile.clone(),
        stdin: old.stdin.clone(),
        reason: old.reason.clone(),
        valid: args.valid,
        retry_of: Some(old.digest()),
        after: Vec::new(),
        expect: old.expect.clone(),
        secrets,
    };
    let job = Signer::new(store.trust(), &session.config.operator, &key)
        .job(old.spec.clone(), options)
        .map_err(|r| Failure::refused("could not sign the job", &r))?;
    if args.detach {
        return detach(session, &hub, &job).await;
    }
    out.progress(format!(
        "{} tries it again on {} nodes",
        job.job_id(),
        nodes.len()
    ));
    let stream = hub.submit_attached(&job.wire).await;
    let stream = stream.map_err(|e| failed("submit the job", &e))?;
    let submitted = Submitted {
        session,
        hub: &hub,
        store: &store,
        key: &key,
        nodes: &nodes,
        job: job.digest,
    };
    submitted.watch(stream, FleetUntil::Present).await
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
    let unproven: Vec<_> = dossier
        .nodes
        .iter()
        .filter(|n| outcome(n.id()).is_none())
        .collect();
    if !unproven.is_empty() {
        let names: Vec<_> = unproven.iter().map(|n| n.name().as_str()).collect();
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
