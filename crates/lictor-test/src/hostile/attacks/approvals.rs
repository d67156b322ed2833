//! Approvals that are nobody's, somebody's twice, for something else, or too late.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use lictor_proto::Code;
use lictor_proto::agent::{OfferReply, Request};
use lictor_proto::doc::{Approval, ApprovalFacts, Ask};
use lictor_trust::Verified;

use super::attacks;
use crate::hostile::org::{MINUTE, digest, signed};
use crate::hostile::{Scene, Seen, passkey};

attacks! {
    hub_passes_two_keys_of_one_person_off_as_two_people => Some(Code::ApprovalNeeded),
    hub_changes_a_job_under_its_approval => Some(Code::WrongJob),
    hub_lets_the_requester_approve => Some(Code::SelfApproval),
    hub_signs_an_approval_itself => Some(Code::SignerUnknown),
    hub_moves_a_passkeys_approval_to_another_job => Some(Code::AssertionInvalid),
    hub_has_a_passkey_asked_by_another_page => Some(Code::AssertionInvalid),
    hub_counts_an_approval_of_somebody_who_may_not => Some(Code::ApprovalIneligible),
    hub_counts_a_service_as_a_person => Some(Code::ApprovalIneligible),
    hub_keeps_an_approval_until_it_has_expired => Some(Code::Expired),
    hub_changes_the_program_under_its_approval => Some(Code::FactsChanged),
    hub_passes_a_rejection_off_as_an_approval => Some(Code::WrongType),
    hub_approves_a_job_that_does_not_wait => Some(Code::Replayed),
}

/// Carol's job, which waits for two leads.
async fn waiting(scene: &Scene) -> Result<(String, Verified<Ask>)> {
    let job = signed(&scene.job("carol", &["true"]), &["carol"]);
    let ask = asked(scene, &job, &[]).await?;
    Ok((job, ask))
}

/// Offers a job that must wait, and gives the node's signed ask.
async fn asked(scene: &Scene, job: &str, approvals: &[String]) -> Result<Verified<Ask>> {
    match scene.offer(job, approvals).await? {
        OfferReply::Ask(ask) => Ok(scene.trust()?.verify_ask(&scene.keys()?, &ask)?),
        other => bail!("IT GOT THROUGH: {other:?}"),
    }
}

/// An approval of a job, with `change` made to it before these keys sign.
fn approval(
    scene: &Scene,
    job: &str,
    approver: &str,
    key: &str,
    change: impl FnOnce(&mut Approval),
) -> Result<String> {
    let mut approval = scene.org.approval(digest(job)?, approver);
    change(&mut approval);
    Ok(signed(&approval, &[key]))
}

fn plain(scene: &Scene, job: &str, approver: &str) -> Result<String> {
    approval(scene, job, approver, approver, |_| {})
}

async fn hub_passes_two_keys_of_one_person_off_as_two_people() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let first = plain(&scene, &job, "bob")?;
    let second = approval(&scene, &job, "bob", "bob-2", |a| {
        a.expires_at = a.issued_at.plus(MINUTE)
    })?;
    ensure!(digest(&first)? != digest(&second)?, "two documents");
    let ask = asked(&scene, &job, &[first.clone(), second]).await?;
    ensure!(
        ask.gates[0].policy_id == "carol-needs-two-leads",
        "{:?}",
        ask.gates
    );
    let seen = scene.noted(Code::ApprovalNeeded).await?;
    scene.runs(&job, &[first, plain(&scene, &job, "erin")?]).await?;
    Ok(seen)
}

async fn hub_changes_a_job_under_its_approval() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (approved, _) = waiting(&scene).await?;
    let approvals = [
        plain(&scene, &approved, "bob")?,
        plain(&scene, &approved, "erin")?,
    ];
    let other = signed(&scene.job("carol", &["echo", "something else"]), &["carol"]);
    asked(&scene, &other, &approvals).await?;
    let seen = scene.noted(Code::WrongJob).await?;
    scene.runs(&approved, &approvals).await?;
    Ok(seen)
}

async fn hub_lets_the_requester_approve() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    // Carol is one of the leads, but not for jobs of her own.
    let own = plain(&scene, &job, "carol")?;
    let bobs = plain(&scene, &job, "bob")?;
    asked(&scene, &job, &[own.clone(), bobs.clone()]).await?;
    let seen = scene
        .refuses_request(&Request::Approval(own), Code::SelfApproval)
        .await?;
    scene.runs(&job, &[bobs, plain(&scene, &job, "erin")?]).await?;
    Ok(seen)
}

async fn hub_passes_a_rejection_off_as_an_approval() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let rejected = signed(&scene.org.remark(digest(&job)?, "bob"), &["bob"]);
    asked(&scene, &job, std::slice::from_ref(&rejected)).await?;
    let seen = scene
        .refuses_request(&Request::Approval(rejected), Code::WrongType)
        .await?;
    let approvals = [plain(&scene, &job, "bob")?, plain(&scene, &job, "erin")?];
    scene.runs(&job, &approvals).await?;
    Ok(seen)
}

async fn hub_signs_an_approval_itself() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let forged = approval(&scene, &job, "erin", "the hub", |_| {})?;
    let bobs = plain(&scene, &job, "bob")?;
    asked(&scene, &job, &[bobs.clone(), forged.clone()]).await?;
    let seen = scene
        .refuses_request(&Request::Approval(forged), Code::SignerUnknown)
        .await?;
    scene.runs(&job, &[bobs, plain(&scene, &job, "erin")?]).await?;
    Ok(seen)
}

async fn hub_moves_a_passkeys_approval_to_another_job() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let (other, _) = waiting(&scene).await?;
    let approves = scene.org.approval(digest(&job)?, "erin");
    let of_other = scene.org.approval(digest(&other)?, "erin");
    let signature = passkey::signature(&approves, passkey::ORIGIN);
    let moved = passkey::wire(&of_other, signature.clone());
    asked(&scene, &other, &[plain(&scene, &other, "bob")?, moved.clone()]).await?;
    let seen = scene
        .refuses_request(&Request::Approval(moved), Code::AssertionInvalid)
        .await?;
    let honest = [plain(&scene, &job, "bob")?, passkey::wire(&approves, signature)];
    scene.runs(&job, &honest).await?;
    Ok(seen)
}

async fn hub_has_a_passkey_asked_by_another_page() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let approves = scene.org.approval(digest(&job)?, "erin");
    let by = |origin| passkey::wire(&approves, passkey::signature(&approves, origin));
    let (bobs, other) = (
        plain(&scene, &job, "bob")?,
        by("https://hub.example.evil.example"),
    );
    asked(&scene, &job, &[bobs.clone(), other.clone()]).await?;
    let seen = scene
        .refuses_request(&Request::Approval(other), Code::AssertionInvalid)
        .await?;
    scene.runs(&job, &[bobs, by(passkey::ORIGIN)]).await?;
    Ok(seen)
}

/// Two leads must approve, and one approval is of `who`, who is none.
async fn ineligible(who: &str) -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let bobs = plain(&scene, &job, "bob")?;
    asked(&scene, &job, &[bobs.clone(), plain(&scene, &job, who)?]).await?;
    let seen = scene.noted(Code::ApprovalIneligible).await?;
    scene.runs(&job, &[bobs, plain(&scene, &job, "erin")?]).await?;
    Ok(seen)
}

async fn hub_counts_an_approval_of_somebody_who_may_not() -> Result<Seen> {
    ineligible("dave").await
}

async fn hub_counts_a_service_as_a_person() -> Result<Seen> {
    ineligible("robot").await
}

async fn hub_keeps_an_approval_until_it_has_expired() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let bobs = plain(&scene, &job, "bob")?;
    let short = approval(&scene, &job, "erin", "erin", |a| {
        a.expires_at = a.issued_at.plus(MINUTE)
    })?;
    scene.node.clock.ahead(2 * MINUTE);
    let seen = scene
        .refuses_request(&Request::Approval(short.clone()), Code::Expired)
        .await?;
    asked(&scene, &job, &[bobs.clone(), short]).await?;
    scene.runs(&job, &[bobs, plain(&scene, &job, "erin")?]).await?;
    Ok(seen)
}

/// Dave's rule binds the facts: what the approver saw must be what runs.
async fn hub_changes_the_program_under_its_approval() -> Result<Seen> {
    let scene = Scene::set().await?;
    let program = scene.node.dir().join("program");
    write(&program, "#!/bin/sh\necho good\n")?;
    let path = program.to_str().context("path is not UTF-8")?;
    let (approved, honest) = (dave(&scene, path)?, dave(&scene, path)?);
    let good = with_facts(&scene, &honest).await?;
    scene.runs(&honest, &[good]).await?;
    let approval = with_facts(&scene, &approved).await?;
    write(&program, "#!/bin/sh\necho evil\n")?;
    match scene.offer(&approved, &[approval]).await? {
        OfferReply::Denied(r) | OfferReply::Later(r) => {
            ensure!(r.code == Code::FactsChanged, "{r}");
        }
        other => bail!("IT GOT THROUGH: {other:?}"),
    }
    scene.noted(Code::FactsChanged).await
}

fn dave(scene: &Scene, program: &str) -> Result<String> {
    Ok(signed(&scene.job("dave", &[program]), &["dave"]))
}

/// Bob's approval of what he saw in the node's ask.
async fn with_facts(scene: &Scene, job: &str) -> Result<String> {
    let ask = asked(scene, job, &[]).await?;
    approval(scene, job, "bob", "bob", |a| {
        a.facts = vec![ApprovalFacts {
            node_id: scene.id.clone(),
            facts_digest: ask.facts_digest,
        }];
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    // A new file, so that nobody who still runs the old one keeps it from being written.
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(&beside, path)?)
}

async fn hub_approves_a_job_that_does_not_wait() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, _) = waiting(&scene).await?;
    let bobs = plain(&scene, &job, "bob")?;
    scene
        .runs(&job, &[bobs.clone(), plain(&scene, &job, "erin")?])
        .await?;
    scene
        .refuses_request(&Request::Approval(bobs), Code::Replayed)
        .await
}
