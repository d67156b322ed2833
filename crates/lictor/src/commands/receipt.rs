//! `lictor receipt verify`: is this what the node said, and is the output what it signed?

use std::path::Path;

use lictor_client::{Expected, ReceiptTracker};
use lictor_proto::doc::{DocKind, Receipt};
use lictor_proto::envelope::Envelope;
use lictor_proto::{Digest, JobId};
use lictor_trust::Verified;
use serde_json::json;

use crate::args::{Receipt as Args, ReceiptCommand, ReceiptVerify};
use crate::commands::dossier::Dossier;
use crate::commands::jobs;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Args) -> Result {
    let ReceiptCommand::Verify(args) = &args.command;
    match args.subject.parse::<JobId>() {
        Ok(id) => of_job(session, &id).await,
        Err(_) => of_file(session, args),
    }
}

async fn of_job(session: &Session, id: &JobId) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, id).await?;
    if let Some(refusal) = dossier.refused.first() {
        return Err(Failure::refused(
            format!("a document about job {id} does not hold"),
            refusal,
        ));
    }
    if dossier.receipts.is_empty() {
        return Err(
            Failure::new(format!("there is no receipt for job {id}")).code(lictor_proto::Code::Unconfirmed)
        );
    }
    let tracker = ReceiptTracker::below(&session.home.trust_dir());
    for receipt in &dossier.receipts {
        let node = dossier
            .nodes
            .iter()
            .find(|n| *n.id() == receipt.node_id)
            .ok_or_else(|| Failure::new("the receipt is of a node that the job does not name"))?;
        let expected = Expected {
            trust: store.trust(),
            node,
            job: dossier.job.digest(),
        };
        let doubt = |r| Failure::refused(format!("the receipt of job {id} cannot be confirmed"), &r);
        tracker.note(receipt, receipt.digest()).map_err(doubt)?;
        if dossier.nodes.len() == 1 {
            expected.reread(&hub, receipt).await.map_err(doubt)?;
        }
        say(session, receipt, true)?;
    }
    Ok(Status::OK)
}

fn of_file(session: &Session, args: &ReceiptVerify) -> Result {
    let store = session.trust()?;
    let path = Path::new(&args.subject);
    let wire = read(path)?;
    // Which node it claims to be is read before anything is checked, and only to find the key to check it with.
    let envelope = Envelope::parse(wire.as_bytes(), DocKind::Receipt.limit()).doing("read the receipt")?;
    let claimed: Receipt = lictor_proto::json::from_slice(&envelope.payload).doing("read the receipt")?;
    let node = store
        .node(&claimed.node_id)
        .map_err(|e| failed(&format!("find node {}", claimed.node_id), &e))?;
    let job: Option<Digest> = match &args.job {
        Some(path) => {
            let wire = read(path)?;
            let job = store
                .trust()
                .historic_job(&wire)
                .map_err(|r| Failure::refused("the job does not hold", &r))?;
            Some(job.digest())
        }
        None => None,
    };
    let expected = Expected {
        trust: store.trust(),
        node: &node,
        job: job.unwrap_or(claimed.job_digest),
    };
    let receipt = expected
        .verify(wire.trim_end())
        .map_err(|r| Failure::refused("the receipt does not hold", &r))?;
    say(session, &receipt, false)?;
    Ok(Status::OK)
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).doing(format!("read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

fn say(session: &Session, receipt: &Verified<Receipt>, output: bool) -> Result<()> {
    let value = json!({
        "verified": true,
        "output_verified": output,
        "receipt_digest": receipt.digest(),
        "receipt": receipt.doc(),
    });
    session.out.either(&value, || {
        let what = if output {
            "signature, node, job and output hold"
        } else {
            "signature and node hold"
        };
        format!("{}\nverified   {what}", jobs::receipt(receipt.doc()))
    })
}
