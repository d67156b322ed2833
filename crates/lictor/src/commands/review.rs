//! `lictor review`: which jobs ran by breaking the glass, and a person's signature that they have looked at one.
//!
//! # Invariants
//! - A run is listed by its node's verified receipt, and counts as reviewed by a verified remark of somebody else than who
//!   asked for it, over just these receipts. A hub can withhold either, which the numbers of receipts show.

use lictor_client::Signer;
use lictor_proto::api::{JobView, Page};
use lictor_proto::doc::{Receipt, Remark, Says};
use lictor_proto::{Code, Digest, JobId};
use lictor_trust::Verified;
use serde_json::{Value, json};

use crate::args::Review;
use crate::commands::dossier::Dossier;
use crate::commands::{confirm, jobs};
use crate::escape::{command_line, escape};
use crate::exit::{self, Status};
use crate::failure::{Failure, Result};
use crate::out::table;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Review) -> Result {
    match &args.id {
        Some(id) => sign(session, args, id).await,
        None => list(session, args).await,
    }
}

/// The receipts that say that the glass was broken.
fn broken(dossier: &Dossier) -> Vec<&Verified<Receipt>> {
    dossier.receipts.iter().filter(|r| r.break_glass).collect()
}

fn digests(receipts: &[&Verified<Receipt>]) -> Vec<Digest> {
    let mut digests: Vec<Digest> = receipts.iter().map(|r| r.digest()).collect();
    digests.sort_unstable();
    digests
}

/// Who has looked at all of these.
fn reviews<'a>(dossier: &'a Dossier, of: &[Digest]) -> Vec<&'a Verified<Remark>> {
    let all = dossier.remarks.iter().filter(|r| r.says == Says::Reviewed);
    let covers = |r: &&Verified<Remark>| of.iter().all(|d| r.receipts.binary_search(d).is_ok());
    all.filter(|r| r.operator != dossier.job.operator)
        .filter(covers)
        .collect()
}

async fn list(session: &Session, args: &Review) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let (mut ids, mut cursor): (Vec<JobId>, Option<String>) = (Vec::new(), None);
    let wanted = args.limit as usize;
    while ids.len() < wanted {
        let page: Page<JobView> = hub
            .jobs(args.limit.min(200), cursor.as_deref(), None, None)
            .await
            .map_err(|e| failed("list the jobs", &e))?;
        ids.extend(page.items.into_iter().map(|job| job.job_id));
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => break,
        }
    }
    ids.truncate(wanted);
    let (mut rows, mut values): (Vec<Vec<String>>, Vec<Value>) = (Vec::new(), Vec::new());
    for id in &ids {
        let dossier = Dossier::fetch(session, &hub, &mut store, id).await?;
        for refusal in &dossier.refused {
            session
                .out
                .note(format!("warning: {id}: {}", escape(&refusal.to_string())));
        }
        let broken = broken(&dossier);
        if broken.is_empty() {
            continue;
        }
        let reviews = reviews(&dossier, &digests(&broken));
        if args.open && !reviews.is_empty() {
            continue;
        }
        let by: Vec<String> = reviews.iter().map(|r| r.operator.to_string()).collect();
        rows.push(vec![
            id.to_string(),
            dossier.job.operator.to_string(),
            broken.len().to_string(),
            broken[0].finished_at.to_string()[..19].to_owned(),
            if by.is_empty() {
                "not reviewed".to_owned()
            } else {
                format!("by {}", by.join(", "))
            },
            command_line(&dossier.job.spec.words()),
        ]);
        values.push(json!({
            "job_id": id, "operator": dossier.job.operator, "command": dossier.job.spec.words(), "reason": dossier.job.reason,
            "receipts": digests(&broken), "reviewed_by": by,
        }));
    }
    session.out.either(&values, || {
        table(
            &["job", "operator", "nodes", "ended", "reviewed", "command"],
            &rows,
        )
    })?;
    Ok(Status::OK)
}

async fn sign(session: &Session, args: &Review, id: &JobId) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, id).await?;
    dossier.all_hold()?;
    let broken = broken(&dossier);
    if broken.is_empty() {
        return Err(
            Failure::new("no verified receipt of this job says that it broke the glass")
                .hint("`lictor review` lists those that do."),
        );
    }
    let operator = args.operator.as_ref().unwrap_or(&session.config.operator);
    if *operator == dossier.job.operator {
        return Err(Failure::new(format!("{operator} asked for this job"))
            .code(Code::SelfApproval)
            .hint("Have somebody else look at it.")
            .exit(exit::DENIED));
    }
    dossier.shows_all()?;
    if session.out.is_json() && !args.yes {
        return Err(
            Failure::new("nothing was signed: with --json nobody is shown the job and asked")
                .hint("Look at it with `lictor job ID` and `lictor logs ID`, then use --yes."),
        );
    }
    if !session.out.is_json() {
        session.out.line(dossier.describe())?;
        for receipt in &broken {
            session.out.line(jobs::receipt(receipt.doc()))?;
        }
        if !args.yes {
            confirm::signing("Look at it with `lictor job ID` and `lictor logs ID`, then use --yes.")?;
        }
    }
    let key = session.key(args.key.as_ref().or(args.operator.as_ref()))?;
    let looked_at = (digests(&broken), args.reason.as_str());
    let remark = Signer::new(store.trust(), operator, &key)
        .remark(dossier.job.digest(), Says::Reviewed, looked_at)
        .map_err(|r| Failure::refused("could not sign the review", &r))?;
    hub.remark(id, &remark.wire)
        .await
        .map_err(|e| failed("hand in the review", &e))?;
    let value = json!({ "job_id": id, "operator": operator, "remark": remark.digest });
    session
        .out
        .either(&value, || format!("{operator} has reviewed {id}"))?;
    Ok(Status::OK)
}
