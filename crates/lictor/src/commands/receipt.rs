//! `lictor receipt`: is this what the node said, and is the output what it signed? And the signed receipt itself.

use std::path::Path;

use lictor_client::{Compared, Expected, Noted, ReceiptTracker};
use lictor_proto::doc::{DocKind, Receipt};
use lictor_proto::envelope::Envelope;
use lictor_proto::{Code, Digest, JobId};
use lictor_trust::Verified;
use serde_json::json;

use crate::args::{Receipt as Args, ReceiptCommand, ReceiptShow, ReceiptVerify};
use crate::commands::dossier::Dossier;
use crate::commands::jobs;
use crate::commands::watch::{missing_note, missing_receipts};
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Args) -> Result {
    match &args.command {
        ReceiptCommand::Verify(args) => match args.subject.parse::<JobId>() {
            Ok(id) => of_job(session, &id).await,
            Err(_) => of_file(session, args),
        },
        ReceiptCommand::Show(args) => show(session, args).await,
    }
}

async fn of_job(session: &Session, id: &JobId) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, id).await?;
    dossier.all_hold()?;
    let tracker = ReceiptTracker::below(&session.home.trust_dir());
    let doubt = |r| Failure::refused(format!("the receipt of job {id} cannot be confirmed"), &r);
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
        let noted = tracker.note(receipt, receipt.digest()).map_err(doubt)?;
        let output = expected.reread(&hub, receipt).await.map_err(doubt)?;
        say(session, receipt, noted, Some(output))?;
    }
    // One receipt for each node that the job names: a hub may have more reasons than one to show fewer.
    let without = dossier.nodes.iter().filter(|n| {
        let mut receipts = dossier.receipts.iter();
        !receipts.any(|r| r.node_id == *n.id())
    });
    let without = without.map(|n| n.name().to_string());
    let unproven = dossier.unproven.iter().map(|u| u.id.to_string());
    let without: Vec<String> = without.chain(unproven).collect();
    if without.is_empty() {
        return Ok(Status::OK);
    }
    let what = format!("there is no receipt of {} for job {id}", without.join(", "));
    let failure = Failure::new(what).code(Code::Unconfirmed);
    let unproven = dossier.unproven.iter();
    Err(unproven.fold(failure, |failure, u| failure.why(u.text())))
}

/// The receipt as its node signed it: `receipt verify FILE` reads it again, here or elsewhere.
async fn show(session: &Session, args: &ReceiptShow) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    dossier.all_hold()?;
    let of_node = |r: &&Verified<Receipt>| {
        let node = dossier.nodes.iter().find(|n| *n.id() == r.node_id);
        let named =
            |text: &String| *text == r.node_id.to_string() || node.is_some_and(|n| n.name().as_str() == text);
        args.node.as_ref().is_none_or(named)
    };
    let receipts: Vec<&Verified<Receipt>> = dossier.receipts.iter().filter(of_node).collect();
    let receipt = match receipts.as_slice() {
        [one] => *one,
        [] => {
            let what = format!("there is no such receipt for job {}", args.id);
            return Err(Failure::new(what).code(Code::Unconfirmed));
        }
        _ => {
            return Err(Failure::new("this job has receipts of several nodes").hint("Say which with --node."));
        }
    };
    let Some(path) = &args.out else {
        session.out.line(receipt.wire())?;
        return Ok(Status::OK);
    };
    std::fs::write(path, format!("{}\n", receipt.wire())).doing(format!("write {}", path.display()))?;
    let value = json!({ "file": path, "receipt_digest": receipt.digest() });
    session.out.either(&value, || {
        format!("receipt {} is in {}", receipt.digest(), path.display())
    })?;
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
    let tracker = ReceiptTracker::below(&session.home.trust_dir());
    let noted = tracker
        .note(&receipt, receipt.digest())
        .map_err(|r| Failure::refused("the receipt cannot be confirmed", &r))?;
    say(session, &receipt, noted, None)?;
    Ok(Status::OK)
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).doing(format!("read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

/// `output` is how much of the output was read and held against it; nothing where there was no hub to ask.
fn say(session: &Session, receipt: &Verified<Receipt>, noted: Noted, output: Option<Compared>) -> Result<()> {
    let missing = missing_receipts(noted);
    let (word, what) = match output {
        Some(Compared::Whole) => ("whole", "signature, node, job and output hold"),
        Some(_) => (
            "kept",
            "signature, node, job and what was kept of the output hold",
        ),
        None => ("not_read", "signature and node hold; the output was not read"),
    };
    let value = json!({
        "verified": true,
        "output_verified": output.is_some(),
        "output": word,
        "receipts_missing": missing,
        "receipt_digest": receipt.digest(),
        "receipt": receipt.doc(),
    });
    session.out.either(&value, || {
        format!("{}\nverified   {what}", jobs::receipt(receipt.doc()))
    })?;
    if missing > 0 && !session.out.is_json() {
        session.out.note(missing_note(missing));
    }
    Ok(())
}
