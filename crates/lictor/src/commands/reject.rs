//! `lictor reject`: a person's signed word that they would not approve a job.
//!
//! # Invariants
//! - It stops nothing, and says so: no node reads it, and approvals count before and after. What stops a job is a cancel or a
//!   revocation.

use lictor_client::Signer;
use lictor_proto::Code;
use lictor_proto::doc::Says;
use serde_json::json;

use crate::args::Reject;
use crate::commands::dossier::Dossier;
use crate::exit::{self, Status};
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Reject) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    let operator = args.operator.as_ref().unwrap_or(&session.config.operator);
    if *operator == dossier.job.operator {
        return Err(Failure::new(format!("{operator} asked for this job"))
            .code(Code::SelfApproval)
            .hint(format!("Take it back: `lictor cancel {}`.", args.id))
            .exit(exit::DENIED));
    }
    let key = session.key(args.key.as_ref().or(args.operator.as_ref()))?;
    let remark = Signer::new(store.trust(), operator, &key)
        .remark(dossier.job.digest(), Says::Rejected, (Vec::new(), &args.reason))
        .map_err(|r| Failure::refused("could not sign the rejection", &r))?;
    hub.remark(&args.id, &remark.wire)
        .await
        .map_err(|e| failed("hand in the rejection", &e))?;
    let value = json!({
        "job_id": args.id, "operator": operator, "remark": remark.digest, "stops": false,
    });
    session.out.either(&value, || {
        format!(
            "{operator} rejected {}; the requester and other approvers are shown that. It stops nothing: an approval still \
             counts. To be sure: `lictor cancel {}` or `lictor org revoke job {}`.",
            args.id, args.id, args.id
        )
    })?;
    Ok(Status::OK)
}
