//! `lictor cancel`: a signed end for a job, whether it waits or runs.

use lictor_client::Signer;
use serde_json::json;

use crate::args::Cancel;
use crate::commands::dossier::Dossier;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Cancel) -> Result {
    let hub = session.hub()?;
    let key = session.key(None)?;
    let mut store = session.fresh_trust(&hub).await?;
    // The id alone is 160 bits of the digest; the signature has to be over all of it.
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    let nodes = dossier.ids(&args.nodes)?;
    let cancel = Signer::new(store.trust(), &session.config.operator, &key)
        .cancel(dossier.job.digest(), &args.reason, nodes)
        .map_err(|r| Failure::refused("could not sign the cancel", &r))?;
    let view = hub
        .cancel(&args.id, &cancel.wire)
        .await
        .map_err(|e| failed(&format!("cancel job {}", args.id), &e))?;
    let states: Vec<_> = view.executions.iter().map(|e| e.state.as_str()).collect();
    let value = json!({ "job_id": args.id, "cancel": cancel.digest, "states": states });
    session.out.either(&value, || {
        format!(
            "the cancel of {} is on its way; `lictor job {}` shows what became of it",
            args.id, args.id
        )
    })?;
    Ok(Status::OK)
}
