//! Jobs that were changed, sent to somebody else, sent twice, or signed by the wrong hand.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::agent::OfferReply;
use lictor_proto::doc::{Outcome, Spec};
use lictor_proto::{Code, Envelope, NodeId, limits};
use lictor_trust::sign;
use lictor_trust::sign::to_wire;

use super::attacks;
use crate::hostile::org::{Org, digest, key, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_changes_a_byte_of_a_job => Some(Code::SignatureInvalid),
    hub_changes_the_signature_of_a_job => Some(Code::SignatureInvalid),
    hub_sends_a_job_to_another_node => Some(Code::WrongNode),
    hub_sends_a_job_of_another_org => Some(Code::WrongOrg),
    hub_replays_a_job => Some(Code::Replayed),
    hub_signs_a_job_itself => Some(Code::SignerUnknown),
    hub_has_a_job_signed_again_by_another_operator => Some(Code::SignerMismatch),
    hub_adds_a_signature_to_a_job => Some(Code::SignatureCount),
    hub_sends_an_approval_as_a_job => Some(Code::WrongType),
    hub_wraps_a_job_in_another_type => Some(Code::SignatureInvalid),
    hub_has_a_forbidden_operator_sign => Some(Code::Forbidden),
    hub_lies_about_what_a_node_is => Some(Code::ExpectationFailed),
    hub_sends_a_job_of_an_unknown_kind => Some(Code::KindUnsupported),
    hub_begins_a_job_before_the_one_that_it_comes_after => Some(Code::AfterWaiting),
    hub_sends_a_job_with_a_field_of_a_later_version => Some(Code::PayloadMalformed),
    hub_asks_for_receipts_of_jobs_that_do_not_read => Some(Code::SignerUnknown),
}

/// The hub has said that this node runs another system, and alice has chosen it for that.
async fn hub_lies_about_what_a_node_is() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let mut job = scene.job("alice", &["sh", "-c", &command]);
    job.expect.os = Some("plan9".to_owned());
    let seen = scene
        .refuses(&signed(&job, &["alice"]), Code::ExpectationFailed)
        .await?;
    ensure!(!runs.exists(), "it ran");
    job.expect.os = Some("linux".to_owned());
    scene.runs(&signed(&job, &["alice"]), &[]).await?;
    Ok(seen)
}

/// It withholds the first, and sends the second alone; then the first, while the second is there.
async fn hub_begins_a_job_before_the_one_that_it_comes_after() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let first = scene.signed(&["true"]);
    let mut second = scene.job("alice", &["sh", "-c", &command]);
    second.after = vec![digest(&first)?];
    let second = signed(&second, &["alice"]);
    let seen = scene.refuses(&second, Code::AfterWaiting).await?;
    scene.honest().await?;
    ensure!(!runs.exists(), "it ran");
    scene.runs(&first, &[]).await?;
    // The node has kept it, and begins it by itself.
    scene.succeeded(&second).await?;
    Ok(seen)
}

/// The same envelope with another payload.
fn altered(wire: &str, change: impl FnOnce(&mut Envelope)) -> Result<String> {
    let mut envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE)?;
    change(&mut envelope);
    Ok(String::from_utf8(envelope.to_bytes())?)
}

async fn hub_changes_a_byte_of_a_job() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let (runs, command) = scene.counter();
    let job = scene.signed(&["sh", "-c", &command]);
    let changed = altered(&job, |e| {
        let at = e.payload.windows(4).position(|w| w == b"echo").unwrap_or(0);
        e.payload[at] ^= 1;
    })?;
    let seen = scene.refuses(&changed, Code::SignatureInvalid).await?;
    ensure!(!runs.exists(), "it ran");
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

async fn hub_changes_the_signature_of_a_job() -> Result<Seen> {
    let scene = Scene::set().await?;
    let job = scene.signed(&["true"]);
    let changed = altered(&job, |e| e.signatures[0].sig[7] ^= 1)?;
    let seen = scene.refuses(&changed, Code::SignatureInvalid).await?;
    // The digest is that of the payload, so the job itself is as good as before.
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

async fn hub_sends_a_job_to_another_node() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let elsewhere = NodeId::derive(&scene.org.id, &key("another machine").public().key);
    let job = scene.org.job(&elsewhere, "alice", &["true"]);
    scene.refuses(&signed(&job, &["alice"]), Code::WrongNode).await
}

async fn hub_sends_a_job_of_another_org() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let other = Org::found("another")?;
    let job = other.job(&scene.id, "alice", &["true"]);
    scene.refuses(&signed(&job, &["alice"]), Code::WrongOrg).await
}

async fn hub_replays_a_job() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let job = scene.signed(&["sh", "-c", &command]);
    let finished = scene.runs(&job, &[]).await?;
    ensure!(
        scene.offer(&job, &[]).await? == OfferReply::Known,
        "before the result is acknowledged"
    );
    scene.acknowledge(&finished).await?;
    ensure!(scene.offer(&job, &[]).await? == OfferReply::Known, "and after");
    let seen = scene.noted(Code::Replayed).await?;
    scene.honest().await?;
    ensure!(fs::read_to_string(&runs)? == "x\n", "it ran twice");
    Ok(seen)
}

async fn hub_signs_a_job_itself() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let job = scene.job("alice", &["true"]);
    scene
        .refuses(&signed(&job, &["the hub"]), Code::SignerUnknown)
        .await
}

async fn hub_has_a_job_signed_again_by_another_operator() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let job = scene.job("alice", &["true"]);
    scene.refuses(&signed(&job, &["bob"]), Code::SignerMismatch).await
}

async fn hub_adds_a_signature_to_a_job() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let job = scene.job("alice", &["true"]);
    scene
        .refuses(&signed(&job, &["alice", "bob"]), Code::SignatureCount)
        .await
}

async fn hub_sends_an_approval_as_a_job() -> Result<Seen> {
    let scene = Scene::set().await?;
    let job = scene.signed(&["true"]);
    let approval = signed(&scene.org.approval(digest(&job)?, "bob"), &["bob"]);
    let seen = scene.refuses(&approval, Code::WrongType).await?;
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

/// What alice signed as an approval, under the name of a job.
async fn hub_wraps_a_job_in_another_type() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let job = scene.job("alice", &["true"]);
    let honest = sign(&job, &[&key("alice")]);
    let mut envelope = sign(&scene.org.approval(honest.digest(), "alice"), &[&key("alice")]);
    envelope.payload_type.clone_from(&honest.payload_type);
    scene.refuses(&to_wire(&envelope), Code::SignatureInvalid).await
}

async fn hub_has_a_forbidden_operator_sign() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let mut job = scene.job("mallory", &["true"]);
    let Spec::Exec(exec) = &mut job.spec else {
        anyhow::bail!("not a command");
    };
    exec.env.insert("HARMLESS".into(), "1".into());
    let wire = signed(&job, &["mallory"]);
    let seen = scene.refuses(&wire, Code::Forbidden).await?;
    let receipt = scene.receipt(&scene.hub.finished(digest(&wire)?).await?)?;
    ensure!(receipt.outcome == Outcome::Denied, "{:?}", receipt.doc());
    ensure!(
        receipt.policy_ids == ["mallory-never"],
        "{:?}",
        receipt.policy_ids
    );
    Ok(seen)
}

/// A kind of a later version, rightly signed: what is not known is not guessed at.
async fn hub_sends_a_job_of_an_unknown_kind() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let mut job = serde_json::to_value(scene.job("alice", &["true"]))?;
    job["kind"] = "reboot".into();
    let wire = signed_as_it_is(&scene, &job)?;
    let seen = scene.refuses(&wire, Code::KindUnsupported).await?;
    denied_by_receipt(&scene, &wire, Code::KindUnsupported).await?;
    Ok(seen)
}

/// A field of a later version. Nothing starts, and the node says so by a receipt, also when it is asked again.
async fn hub_sends_a_job_with_a_field_of_a_later_version() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let mut job = serde_json::to_value(scene.job("alice", &["sh", "-c", &command]))?;
    scene.runs(&signed_as_it_is(&scene, &job)?, &[]).await?;
    job["nonce"] = "AAAAAAAAAAAAAAAAAAAAAA==".into();
    job["spec"]["priority"] = 7.into();
    let wire = signed_as_it_is(&scene, &job)?;
    let seen = scene.refuses(&wire, Code::PayloadMalformed).await?;
    denied_by_receipt(&scene, &wire, Code::PayloadMalformed).await?;
    ensure!(scene.offer(&wire, &[]).await? == OfferReply::Known, "it was seen");
    ensure!(fs::read_to_string(&runs)? == "x\n", "it ran");
    Ok(seen)
}

/// Of another node, of nobody in the roster, and of one whose name is not the signer's: no receipt for any of them.
async fn hub_asks_for_receipts_of_jobs_that_do_not_read() -> Result<Seen> {
    let scene = Scene::set().await?;
    let honest = serde_json::to_value(scene.job("alice", &["true"]))?;
    let elsewhere = NodeId::derive(&scene.org.id, &key("another machine").public().key);
    let mut last = None;
    for (field, value, signer) in [
        ("nodes", serde_json::json!([elsewhere]), "alice"),
        ("operator", "bob".into(), "alice"),
        ("org", Org::found("another")?.id.to_string().into(), "alice"),
        ("expires_at", "2099-01-01T00:00:00.000Z".into(), "alice"),
        ("nodes", honest["nodes"].clone(), "the hub"),
    ] {
        let mut job = honest.clone();
        job["later"] = true.into();
        job[field] = value;
        let wire = signed_by(&scene, &job, signer)?;
        let code = match signer {
            "the hub" => Code::SignerUnknown,
            _ => Code::PayloadMalformed,
        };
        let reply = scene.offer(&wire, &[]).await?;
        let is_refused = matches!(&reply, OfferReply::Refused(refusal) if refusal.code == code);
        ensure!(is_refused, "{field} of {signer}: {reply:?}");
        last = Some(scene.noted(code).await?);
    }
    // With everything right besides, there is one: what is refused above is refused for what it says.
    let mut job = honest;
    job["later"] = true.into();
    let wire = signed_as_it_is(&scene, &job)?;
    scene.refuses(&wire, Code::PayloadMalformed).await?;
    denied_by_receipt(&scene, &wire, Code::PayloadMalformed).await?;
    last.context("none was tried")
}

/// Signed by alice, whatever it is.
fn signed_as_it_is(scene: &Scene, job: &serde_json::Value) -> Result<String> {
    signed_by(scene, job, "alice")
}

fn signed_by(scene: &Scene, job: &serde_json::Value, signer: &str) -> Result<String> {
    let mut envelope = sign(&scene.job("alice", &["true"]), &[&key(signer)]);
    envelope.payload = serde_json::to_vec(job)?;
    envelope.signatures[0].sig = key(signer).sign(&envelope.pae()).to_vec();
    Ok(to_wire(&envelope))
}

async fn denied_by_receipt(scene: &Scene, wire: &str, code: Code) -> Result<()> {
    let receipt = scene.receipt(&scene.hub.finished(digest(wire)?).await?)?;
    ensure!(receipt.outcome == Outcome::Denied, "{:?}", receipt.doc());
    ensure!(receipt.code == Some(code), "{:?}", receipt.doc());
    Ok(())
}
