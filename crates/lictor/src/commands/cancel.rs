//! `lictor cancel`: a signed end for a job, whether it waits or runs; or for all that waits for a node.

use lictor_client::{Hub, Signer, TrustStore};
use lictor_proto::JobId;
use lictor_proto::api::{ExecutionState, JobView};
use serde_json::{Value, json};

use crate::args::Cancel;
use crate::commands::dossier::Dossier;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

/// Jobs of one page of a queue.
const PAGE: u32 = 500;

pub(crate) async fn run(session: &Session, args: &Cancel) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let Some(id) = &args.id else {
        return purge(session, (&hub, &mut store), args).await;
    };
    let value = one(session, (&hub, &mut store), id, args, &args.nodes).await?;
    session.out.either(&value, || {
        format!("the cancel of {id} is on its way; `lictor job {id}` shows what became of it")
    })?;
    Ok(Status::OK)
}

/// Cancels one job on these of its nodes, or on all.
async fn one(
    session: &Session,
    (hub, store): (&Hub, &mut TrustStore),
    id: &JobId,
    args: &Cancel,
    nodes: &[String],
) -> Result<Value> {
    let key = session.key(None)?;
    // The id alone is 160 bits of the digest; the signature has to be over all of it.
    let dossier = Dossier::fetch(session, hub, store, id).await?;
    let nodes = dossier.ids(nodes)?;
    let cancel = Signer::new(store.trust(), &session.config.operator, &key)
        .cancel(dossier.job.digest(), &args.reason, nodes)
        .map_err(|r| Failure::refused("could not sign the cancel", &r))?;
    let view = hub
        .cancel(id, &cancel.wire)
        .await
        .map_err(|e| failed(&format!("cancel job {id}"), &e))?;
    let states: Vec<_> = view.executions.iter().map(|e| e.state.as_str()).collect();
    Ok(json!({ "job_id": id, "cancel": cancel.digest, "states": states }))
}

/// Cancels all that waits for these nodes, there and nowhere else.
async fn purge(session: &Session, (hub, store): (&Hub, &mut TrustStore), args: &Cancel) -> Result {
    let mut canceled = Vec::new();
    for name in &args.nodes {
        let node = session.node(store, hub, name).await?;
        let (node_id, title) = (node.id().clone(), node.name().to_string());
        let waits = |job: &JobView| {
            let mut here = job.executions.iter().filter(|e| e.node_id == node_id);
            here.any(|e| e.state == ExecutionState::Queued)
        };
        // All of them first: what is canceled stays queued until its node says otherwise.
        let (mut queue, mut cursor): (Vec<JobId>, Option<String>) = (Vec::new(), None);
        loop {
            let queued = Some(ExecutionState::Queued);
            let page = hub.jobs(PAGE, cursor.as_deref(), queued, Some(&node_id)).await;
            let page = page.map_err(|e| failed("list what waits", &e))?;
            queue.extend(page.items.into_iter().filter(waits).map(|job| job.job_id));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        for id in queue {
            let only_here = [node_id.to_string()];
            let mut value = one(session, (hub, store), &id, args, &only_here).await?;
            value["node"] = title.as_str().into();
            canceled.push(value);
        }
    }
    session.out.either(&canceled, || {
        format!(
            "cancels of {} jobs are on their way, for when their nodes are there",
            canceled.len()
        )
    })?;
    Ok(Status::OK)
}
