//! `lictor release`: an operator's signature that a job may begin on some of its nodes.
//!
//! # Invariants
//! - A batch is what the hub says it is, so it is turned into nodes of the signed job, and somebody is shown these and asked
//!   before anything is signed; the signature is over the nodes.

use lictor_client::Signer;
use lictor_proto::NodeId;
use serde_json::json;

use crate::args::Release;
use crate::commands::dossier::Dossier;
use crate::commands::{confirm, rollout};
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Release) -> Result {
    let unseen = args.yes || session.out.is_json();
    if unseen && !args.batch.is_empty() {
        return Err(
            Failure::new("nothing was signed: which nodes a batch has is the hub's word, and nobody is shown them and asked")
                .hint("Name the nodes with --node; or use --batch without --yes and --json, look at them and answer."),
        );
    }
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::current(session, &hub, &mut store, &args.id).await?;
    dossier.shows_all()?;
    let mut wanted = args.nodes.clone();
    if !args.batch.is_empty() {
        let of_batch = rollout::nodes_of(&hub, &args.id, &args.batch).await?;
        // A batch may have nodes that were revoked since; who names one is told.
        let proven = of_batch.iter().filter(|id| !dossier.is_unproven(id));
        wanted.extend(proven.map(NodeId::to_string));
        dossier.tell_unproven(session.out);
    }
    let nodes = dossier.named(&wanted)?;
    let operator = args.operator.as_ref().unwrap_or(&session.config.operator);
    if session.out.is_json() {
        if !args.yes {
            return Err(
                Failure::new("nothing was signed: with --json nobody is shown the job and asked")
                    .hint("Look at it with `lictor job ID`, then use --yes."),
            );
        }
    } else {
        session.out.line(dossier.describe())?;
        let names: Vec<_> = nodes
            .iter()
            .map(|n| format!("{} ({})", n.name(), n.id()))
            .collect();
        session.out.line(format!(
            "\n{operator} releases it on {} of its {} nodes: {}",
            nodes.len(),
            dossier.job.nodes.len(),
            names.join(", ")
        ))?;
        if !args.yes {
            confirm::signing("Look at it with `lictor job ID`, then use --yes with --node.")?;
        }
    }
    let key = session.key(args.key.as_ref().or(args.operator.as_ref()))?;
    let ids: Vec<NodeId> = nodes.iter().map(|n| n.id().clone()).collect();
    let release = Signer::new(store.trust(), operator, &key)
        .release(dossier.job.digest(), ids.clone(), args.valid)
        .map_err(|r| Failure::refused("could not sign the release", &r))?;
    let handed_in = hub.release(&args.id, &release.wire).await;
    handed_in.map_err(|e| failed("hand in the release", &e))?;
    let value = json!({ "job_id": args.id, "operator": operator, "release": release.digest, "nodes": ids });
    session.out.either(&value, || {
        format!("{operator} released {} on {} nodes", args.id, ids.len())
    })?;
    Ok(Status::OK)
}
