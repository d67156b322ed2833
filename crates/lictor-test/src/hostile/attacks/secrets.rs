//! Secrets that are not the ones that a job was signed for, or not for whom they are brought to.

use anyhow::{Context as _, Result, ensure};
use lictor_proto::agent::OfferReply;
use lictor_proto::doc::{Delivery, NodeRecord, RevocationKind, Sealed, Secret, SecretUse};
use lictor_proto::{Code, Envelope, NodeId, limits};
use lictor_trust::seal::{Bound, seal};
use lictor_trust::sign::{sign_payload, to_wire};

use super::attacks;
use crate::hostile::org::{Org, digest, key, name, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_leaves_a_secret_out => Some(Code::SecretMissing),
    hub_swaps_two_secrets => Some(Code::SecretMismatch),
    hub_brings_an_older_version_of_a_secret => Some(Code::SecretMismatch),
    hub_changes_a_byte_of_a_secret => Some(Code::SecretMismatch),
    hub_brings_a_secret_of_another_org => Some(Code::SecretMismatch),
    hub_spoils_the_signature_of_a_secret => Some(Code::SignatureInvalid),
    hub_signs_a_secret_itself => Some(Code::SignerUnknown),
    hub_gives_a_sealed_value_another_name => Some(Code::SecretUnreadable),
    hub_gives_a_sealed_value_another_version => Some(Code::SecretUnreadable),
    operator_wraps_the_sealed_value_of_another => Some(Code::SecretUnreadable),
    hub_puts_another_value_beside_a_sealed_key => Some(Code::SecretUnreadable),
    hub_gives_one_node_the_sealed_value_of_another => Some(Code::SecretUnreadable),
    hub_brings_a_secret_that_is_not_for_the_node => Some(Code::SecretNotForNode),
    hub_brings_a_secret_of_a_revoked_operator => Some(Code::OperatorRevoked),
    hub_has_somebody_use_a_secret_who_may_not => Some(Code::NoMatch),
    hub_leaves_the_secret_of_a_schedule_out => Some(Code::SecretMissing),
    hub_brings_another_secret_for_a_schedule => Some(Code::SecretMismatch),
}

const VALUE: &[u8] = b"the value of the secret";

/// Who may use what in these scenes: alice each of these, bob his own.
const RULES: &str = r#"
@id("secrets-of-alice")
permit (principal == Operator::"alice", action == Action::"use_secret", resource)
when { ["db", "api"].contains(context.name) };

@id("secrets-of-bob")
permit (principal == Operator::"bob", action == Action::"use_secret", resource)
when { context.name == "bobs" };
"#;

/// Whoever has set a secret may use it.
const OWN: &str = r#"
@id("their-own")
permit (principal, action == Action::"use_secret", resource) when { principal.name == context.set_by };
"#;

async fn scene() -> Result<Scene> {
    let mut scene = Scene::set().await?;
    let _ = scene.org.next_bundle(|bundle| {
        bundle.files.insert("policies/secrets.cedar".into(), RULES.into());
    });
    scene.push(scene.org.docs()).await?;
    Ok(scene)
}

fn seal_key(scene: &Scene) -> Result<[u8; 32]> {
    let envelope = Envelope::parse(scene.papers.1.as_bytes(), limits::ENVELOPE)?;
    let record: NodeRecord = lictor_proto::json::from_slice(&envelope.payload)?;
    Ok(record.seal_key)
}

/// A value that somebody seals to a node under this name and version.
fn sealed(org: &Org, who: &str, (called, version): (&str, u64), to: (&NodeId, &[u8; 32])) -> Result<Sealed> {
    let (who, called) = (name(who), name(called));
    let bound = Bound {
        org: &org.id,
        name: &called,
        version,
        operator: &who,
    };
    Ok(seal(VALUE, bound, [to])?)
}

fn document(org: &Org, who: &str, called: &str, version: u64, value: Sealed) -> Secret {
    Secret {
        tag: Default::default(),
        org: org.id.clone(),
        operator: name(who),
        name: name(called),
        version,
        sealed: value,
        issued_at: org.now(),
    }
}

/// An honest secret of alice's.
fn honest(scene: &Scene, called: &str, version: u64) -> Result<String> {
    let to = (&scene.id, &seal_key(scene)?);
    let value = sealed(&scene.org, "alice", (called, version), to)?;
    Ok(signed(
        &document(&scene.org, "alice", called, version, value),
        &["alice"],
    ))
}

/// A job of this operator's for the secret in `wire`.
fn job(scene: &Scene, who: &str, (called, version): (&str, u64), wire: &str) -> Result<String> {
    let mut job = scene.job(who, &["true"]);
    job.secrets = vec![SecretUse {
        name: name(called),
        version,
        digest: digest(wire)?,
        delivery: Delivery::Memfd,
    }];
    job.min_bundle = scene.org.version();
    Ok(signed(&job, &[who]))
}

/// Brings `brought` with a job for `wire`, after the right one has been shown to work.
async fn refuses(scene: &Scene, wire: &str, brought: &str, code: Code) -> Result<Seen> {
    let first = job(scene, "alice", ("db", 2), wire)?;
    let reply = scene.offer_with(&first, &[wire.to_owned()]).await?;
    ensure!(
        reply == OfferReply::Accepted,
        "an honest secret was answered by {reply:?}"
    );
    scene.succeeded(&first).await?;
    let second = job(scene, "alice", ("db", 2), wire)?;
    scene.refuses_with(&second, &[brought.to_owned()], code).await
}

async fn hub_leaves_a_secret_out() -> Result<Seen> {
    let scene = scene().await?;
    let wire = honest(&scene, "db", 2)?;
    let job = job(&scene, "alice", ("db", 2), &wire)?;
    let seen = scene.refuses(&job, Code::SecretMissing).await?;
    // It was not refused for good: with the secret it runs.
    let reply = scene.offer_with(&job, &[wire]).await?;
    ensure!(reply == OfferReply::Accepted, "answered by {reply:?}");
    scene.succeeded(&job).await?;
    Ok(seen)
}

/// Alice's schedule that uses the secret in `wire`.
fn schedule(scene: &Scene, wire: &str) -> Result<String> {
    let mut schedule = super::schedules::standing(scene, &["true"]);
    schedule.secrets = vec![SecretUse {
        name: name("db"),
        version: 2,
        digest: digest(wire)?,
        delivery: Delivery::Memfd,
    }];
    schedule.min_bundle = scene.org.version();
    Ok(signed(&schedule, &["alice"]))
}

/// It would have firings without it: the schedule is not kept before that is there.
async fn hub_leaves_the_secret_of_a_schedule_out() -> Result<Seen> {
    let scene = scene().await?;
    let wire = honest(&scene, "db", 2)?;
    let schedule = schedule(&scene, &wire)?;
    let seen = scene.refuses(&schedule, Code::SecretMissing).await?;
    let reply = scene.offer_with(&schedule, &[wire]).await?;
    ensure!(reply == OfferReply::Accepted, "answered by {reply:?}");
    Ok(seen)
}

async fn hub_brings_another_secret_for_a_schedule() -> Result<Seen> {
    let scene = scene().await?;
    let (older, wire) = (honest(&scene, "db", 1)?, honest(&scene, "db", 2)?);
    let reply = scene
        .offer_with(&schedule(&scene, &wire)?, std::slice::from_ref(&wire))
        .await?;
    ensure!(reply == OfferReply::Accepted, "answered by {reply:?}");
    let second = schedule(&scene, &wire)?;
    scene.refuses_with(&second, &[older], Code::SecretMismatch).await
}

async fn hub_swaps_two_secrets() -> Result<Seen> {
    let scene = scene().await?;
    let (wire, other) = (honest(&scene, "db", 2)?, honest(&scene, "api", 2)?);
    refuses(&scene, &wire, &other, Code::SecretMismatch).await
}

async fn hub_brings_an_older_version_of_a_secret() -> Result<Seen> {
    let scene = scene().await?;
    let (older, wire) = (honest(&scene, "db", 1)?, honest(&scene, "db", 2)?);
    refuses(&scene, &wire, &older, Code::SecretMismatch).await
}

async fn hub_changes_a_byte_of_a_secret() -> Result<Seen> {
    let scene = scene().await?;
    let wire = honest(&scene, "db", 2)?;
    let mut envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE)?;
    let at = envelope.payload.len() / 2;
    let byte = envelope.payload.get_mut(at).context("a payload")?;
    *byte ^= 1;
    refuses(&scene, &wire, &to_wire(&envelope), Code::SecretMismatch).await
}

async fn hub_brings_a_secret_of_another_org() -> Result<Seen> {
    let scene = scene().await?;
    let wire = honest(&scene, "db", 2)?;
    let other = Org::found("other")?;
    let value = sealed(&other, "alice", ("db", 2), (&scene.id, &seal_key(&scene)?))?;
    let theirs = signed(&document(&other, "alice", "db", 2, value), &["alice"]);
    refuses(&scene, &wire, &theirs, Code::SecretMismatch).await
}

async fn hub_spoils_the_signature_of_a_secret() -> Result<Seen> {
    let scene = scene().await?;
    let wire = honest(&scene, "db", 2)?;
    let mut envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE)?;
    let signature = envelope.signatures.first_mut().context("a signature")?;
    *signature.sig.last_mut().context("bytes")? ^= 1;
    refuses(&scene, &wire, &to_wire(&envelope), Code::SignatureInvalid).await
}

/// The same bytes, so the same digest, under a key of the hub's.
async fn hub_signs_a_secret_itself() -> Result<Seen> {
    let scene = scene().await?;
    let wire = honest(&scene, "db", 2)?;
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE)?;
    let own = sign_payload(envelope.payload_type, envelope.payload, &[&key("hub")]);
    refuses(&scene, &wire, &to_wire(&own), Code::SignerUnknown).await
}

/// With the help of an operator who may not use `db`: bob signs its ciphertext under the name of a secret that he may use.
async fn hub_gives_a_sealed_value_another_name() -> Result<Seen> {
    let scene = scene().await?;
    let key = seal_key(&scene)?;
    let own = sealed(&scene.org, "bob", ("bobs", 1), (&scene.id, &key))?;
    let own = signed(&document(&scene.org, "bob", "bobs", 1, own), &["bob"]);
    let first = job(&scene, "bob", ("bobs", 1), &own)?;
    let reply = scene.offer_with(&first, &[own]).await?;
    ensure!(reply == OfferReply::Accepted, "answered by {reply:?}");
    scene.succeeded(&first).await?;
    // Sealed as by bob, so that nothing but the name differs from what he signs.
    let other = sealed(&scene.org, "bob", ("db", 2), (&scene.id, &key))?;
    let wrapped = signed(&document(&scene.org, "bob", "bobs", 2, other), &["bob"]);
    let second = job(&scene, "bob", ("bobs", 2), &wrapped)?;
    scene
        .refuses_with(&second, &[wrapped], Code::SecretUnreadable)
        .await
}

/// Who may use what they have set themselves gets nothing by setting what another has sealed: bob puts alice's ciphertext,
/// unchanged and under its own name and version, into a document that he signs, and a hub stores it beside hers.
async fn operator_wraps_the_sealed_value_of_another() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    let _ = scene.org.next_bundle(|bundle| {
        bundle.files.insert("policies/secrets.cedar".into(), OWN.into());
    });
    scene.push(scene.org.docs()).await?;
    let to = (&scene.id, &seal_key(&scene)?);
    let own = sealed(&scene.org, "bob", ("db", 2), to)?;
    let own = signed(&document(&scene.org, "bob", "db", 2, own), &["bob"]);
    let first = job(&scene, "bob", ("db", 2), &own)?;
    let reply = scene.offer_with(&first, &[own]).await?;
    ensure!(reply == OfferReply::Accepted, "answered by {reply:?}");
    scene.succeeded(&first).await?;
    let alices = sealed(&scene.org, "alice", ("db", 2), to)?;
    let wrapped = signed(&document(&scene.org, "bob", "db", 2, alices), &["bob"]);
    let second = job(&scene, "bob", ("db", 2), &wrapped)?;
    scene
        .refuses_with(&second, &[wrapped], Code::SecretUnreadable)
        .await
}

/// Refused although alice has signed it: what was sealed as another version is no value of this one.
async fn unreadable(scene: &Scene, value: Sealed) -> Result<Seen> {
    let wire = signed(&document(&scene.org, "alice", "db", 2, value), &["alice"]);
    let job = job(scene, "alice", ("db", 2), &wire)?;
    scene.refuses_with(&job, &[wire], Code::SecretUnreadable).await
}

async fn hub_gives_a_sealed_value_another_version() -> Result<Seen> {
    let scene = scene().await?;
    let value = sealed(&scene.org, "alice", ("db", 1), (&scene.id, &seal_key(&scene)?))?;
    unreadable(&scene, value).await
}

/// Both alice's, of the same words: the key of the one opens nothing of the other. Of one that was made with that very key
/// the unit tests of `seal` speak.
async fn hub_puts_another_value_beside_a_sealed_key() -> Result<Seen> {
    let scene = scene().await?;
    let seal = || sealed(&scene.org, "alice", ("db", 2), (&scene.id, &seal_key(&scene)?));
    let value = Sealed {
        ciphertext: seal()?.ciphertext,
        ..seal()?
    };
    unreadable(&scene, value).await
}

async fn hub_gives_one_node_the_sealed_value_of_another() -> Result<Seen> {
    let scene = scene().await?;
    let other = NodeId::derive(&scene.org.id, &key("another node").public().key);
    let mut value = sealed(&scene.org, "alice", ("db", 2), (&other, &seal_key(&scene)?))?;
    value.keys[0].node_id = scene.id.clone();
    unreadable(&scene, value).await
}

async fn hub_brings_a_secret_that_is_not_for_the_node() -> Result<Seen> {
    let scene = scene().await?;
    let other = NodeId::derive(&scene.org.id, &key("another node").public().key);
    let value = sealed(&scene.org, "alice", ("db", 2), (&other, &seal_key(&scene)?))?;
    let wire = signed(&document(&scene.org, "alice", "db", 2, value), &["alice"]);
    let job = job(&scene, "alice", ("db", 2), &wire)?;
    scene.refuses_with(&job, &[wire], Code::SecretNotForNode).await
}

async fn hub_brings_a_secret_of_a_revoked_operator() -> Result<Seen> {
    let mut scene = scene().await?;
    let value = sealed(&scene.org, "dave", ("db", 2), (&scene.id, &seal_key(&scene)?))?;
    let wire = signed(&document(&scene.org, "dave", "db", 2, value), &["dave"]);
    let first = job(&scene, "alice", ("db", 2), &wire)?;
    let reply = scene.offer_with(&first, std::slice::from_ref(&wire)).await?;
    ensure!(reply == OfferReply::Accepted, "answered by {reply:?}");
    scene.succeeded(&first).await?;
    let _ = scene.org.revoke(RevocationKind::Operator, "dave");
    scene.push(scene.org.docs()).await?;
    let second = job(&scene, "alice", ("db", 2), &wire)?;
    scene.refuses_with(&second, &[wire], Code::OperatorRevoked).await
}

/// Bob may run what alice may, and not with her secret.
async fn hub_has_somebody_use_a_secret_who_may_not() -> Result<Seen> {
    let scene = scene().await?;
    let wire = honest(&scene, "db", 2)?;
    let first = job(&scene, "alice", ("db", 2), &wire)?;
    let reply = scene.offer_with(&first, std::slice::from_ref(&wire)).await?;
    ensure!(reply == OfferReply::Accepted, "answered by {reply:?}");
    scene.succeeded(&first).await?;
    scene
        .runs(&signed(&scene.job("bob", &["true"]), &["bob"]), &[])
        .await?;
    let second = job(&scene, "bob", ("db", 2), &wire)?;
    scene.refuses_with(&second, &[wire], Code::NoMatch).await
}
