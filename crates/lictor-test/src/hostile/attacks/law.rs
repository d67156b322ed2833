//! Law that is old, forged, withheld or broken.

use anyhow::{Result, ensure};
use lictor_proto::Code;
use lictor_proto::agent::{LawDocs, Request};
use lictor_proto::doc::RevocationKind;

use super::attacks;
use crate::hostile::org::{DAY, MAX_STALENESS, key, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_serves_an_older_bundle => Some(Code::BundleOlder),
    hub_serves_two_bundles_of_one_version => Some(Code::BundleConflict),
    hub_signs_law_itself => Some(Code::SignerUnknown),
    hub_serves_a_bundle_that_cannot_be_loaded => Some(Code::BundleUnloadable),
    hub_serves_the_old_law_again_after_a_broken_one => Some(Code::BundleOlder),
    hub_withholds_the_law_that_a_job_asks_for => Some(Code::StaleBundle),
    hub_serves_an_older_root => Some(Code::RootOlder),
    hub_leaves_out_a_root_version => Some(Code::RootVersion),
    hub_makes_itself_the_next_root => Some(Code::SignerUnknown),
    hub_withholds_a_revocation_past_max_staleness => Some(Code::Stale),
    hub_withholds_a_revocation_that_a_fresh_statement_names => Some(Code::FreshnessMismatch),
    hub_signs_a_revocation_itself => Some(Code::SignerUnknown),
    hub_has_somebody_without_the_right_revoke => Some(Code::RightMissing),
    hub_sends_a_job_of_a_revoked_key => Some(Code::KeyRevoked),
    hub_sends_a_job_of_a_revoked_operator => Some(Code::OperatorRevoked),
}

fn bundle(wire: String) -> LawDocs {
    LawDocs {
        bundle: Some(wire),
        ..LawDocs::default()
    }
}

async fn hub_serves_an_older_bundle() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    let old = scene.org.docs();
    scene.org.next_bundle(|_| {});
    scene.push(scene.org.docs()).await?;
    scene.honest().await?;
    let old = bundle(old.bundle.unwrap_or_default());
    scene.refuses_request(&Request::Law(old), Code::BundleOlder).await
}

async fn hub_serves_two_bundles_of_one_version() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.honest().await?;
    let mut second = scene.org.bundle().clone();
    second.max_staleness += 1;
    let second = bundle(signed(&second, &["bundle"]));
    let seen = scene
        .refuses_request(&Request::Law(second), Code::BundleConflict)
        .await?;
    scene.org.next_bundle(|_| {});
    scene.push(scene.org.docs()).await?;
    Ok(seen)
}

async fn hub_signs_law_itself() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    let mut forged = scene.org.bundle().clone();
    forged.version += 1;
    let forged = bundle(signed(&forged, &["the hub"]));
    let seen = scene
        .refuses_request(&Request::Law(forged), Code::SignerUnknown)
        .await?;
    scene.org.next_bundle(|_| {});
    scene.push(scene.org.docs()).await?;
    scene.honest().await?;
    Ok(seen)
}

/// A bundle that its keyholders signed by mistake: the hub would like the node to stay with the old one.
async fn broken_law(scene: &mut Scene) -> Result<()> {
    let broken = |b: &mut lictor_proto::doc::Bundle| {
        b.files.insert("policies/broken.cedar".into(), "permit (".into());
    };
    scene.org.next_bundle(broken);
    scene.push(scene.org.docs()).await
}

async fn hub_serves_a_bundle_that_cannot_be_loaded() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.honest().await?;
    broken_law(&mut scene).await?;
    let job = scene.signed(&["true"]);
    scene.refuses(&job, Code::BundleUnloadable).await
}

async fn hub_serves_the_old_law_again_after_a_broken_one() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    let good = scene.org.docs();
    broken_law(&mut scene).await?;
    let old = bundle(good.bundle.unwrap_or_default());
    let seen = scene
        .refuses_request(&Request::Law(old), Code::BundleOlder)
        .await?;
    let still = scene.refused_offer(&scene.signed(&["true"])).await?;
    ensure!(still == Code::BundleUnloadable, "{still}");
    scene.org.next_bundle(|b| {
        b.files.remove("policies/broken.cedar");
    });
    scene.push(scene.org.docs()).await?;
    scene.honest().await?;
    Ok(seen)
}

async fn hub_withholds_the_law_that_a_job_asks_for() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.org.next_bundle(|_| {});
    let mut job = scene.job("alice", &["true"]);
    job.min_bundle = scene.org.version();
    let job = signed(&job, &["alice"]);
    let seen = scene.refuses(&job, Code::StaleBundle).await?;
    scene.push(scene.org.docs()).await?;
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

async fn hub_serves_an_older_root() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.org.next_root();
    scene.org.next_root();
    scene.push(scene.org.docs()).await?;
    scene.honest().await?;
    // Another root 2, by the same keys: what somebody with an old backup of the root key could sign.
    let mut other = scene.org.clone();
    other.pass(DAY / 24);
    let old = LawDocs {
        roots: vec![other.root(2)],
        ..LawDocs::default()
    };
    scene.refuses_request(&Request::Law(old), Code::RootOlder).await
}

async fn hub_leaves_out_a_root_version() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.honest().await?;
    scene.org.next_root();
    let third = LawDocs {
        roots: vec![scene.org.next_root()],
        ..LawDocs::default()
    };
    let seen = scene
        .refuses_request(&Request::Law(third), Code::RootVersion)
        .await?;
    scene.push(scene.org.docs()).await?;
    Ok(seen)
}

/// A root that hands the org to the hub, signed by the key that it names itself.
async fn hub_makes_itself_the_next_root() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let roots = |wire: String| LawDocs {
        roots: vec![wire],
        ..LawDocs::default()
    };
    let coup = roots(scene.org.root_for(2, "the hub", &["the hub"]));
    let seen = scene
        .refuses_request(&Request::Law(coup), Code::SignerUnknown)
        .await?;
    // The old key and a new one together may do what the hub may not.
    let next = roots(scene.org.root_for(2, "next root", &["root", "next root"]));
    scene.push(next).await?;
    scene.honest().await?;
    Ok(seen)
}

/// Bob's key is stolen and revoked; the hub passes on neither that nor any newer statement.
async fn hub_withholds_a_revocation_past_max_staleness() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene
        .org
        .revoke(RevocationKind::Key, &key("bob").id().to_string());
    let stolen = signed(&scene.job("bob", &["true"]), &["bob"]);
    // Until then the node cannot know.
    scene.runs(&stolen, &[]).await?;
    let late = MAX_STALENESS + DAY / 24;
    scene.node.clock.ahead(late);
    scene.org.pass(late);
    let stolen = signed(&scene.job("bob", &["true"]), &["bob"]);
    scene.refuses(&stolen, Code::Stale).await
}

async fn hub_withholds_a_revocation_that_a_fresh_statement_names() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.honest().await?;
    scene
        .org
        .revoke(RevocationKind::Key, &key("bob").id().to_string());
    let mut docs = scene.org.docs();
    docs.revocations.clear();
    scene.push(docs).await?;
    let stolen = signed(&scene.job("bob", &["true"]), &["bob"]);
    let seen = scene.refuses(&stolen, Code::FreshnessMismatch).await?;
    scene.push(scene.org.docs()).await?;
    scene.honest().await?;
    Ok(seen)
}

async fn hub_signs_a_revocation_itself() -> Result<Seen> {
    let scene = Scene::set().await?;
    let mut forged = scene.org.clone();
    let target = key("bob").id().to_string();
    let wire = forged.revoke(RevocationKind::Key, &target);
    let envelope = lictor_proto::Envelope::parse(wire.as_bytes(), lictor_proto::limits::ENVELOPE)?;
    let forged: lictor_proto::doc::Revocation = lictor_proto::json::from_slice(&envelope.payload)?;
    let docs = LawDocs {
        revocations: vec![signed(&forged, &["the hub"])],
        ..LawDocs::default()
    };
    let seen = scene
        .refuses_request(&Request::Law(docs), Code::SignerUnknown)
        .await?;
    scene
        .runs(&signed(&scene.job("bob", &["true"]), &["bob"]), &[])
        .await?;
    Ok(seen)
}

async fn hub_has_somebody_without_the_right_revoke() -> Result<Seen> {
    let scene = Scene::set().await?;
    let target = key("bob").id().to_string();
    let docs = LawDocs {
        revocations: vec![scene.org.revocation("mallory", RevocationKind::Key, &target)],
        ..LawDocs::default()
    };
    let seen = scene
        .refuses_request(&Request::Law(docs), Code::RightMissing)
        .await?;
    scene
        .runs(&signed(&scene.job("bob", &["true"]), &["bob"]), &[])
        .await?;
    Ok(seen)
}

async fn hub_sends_a_job_of_a_revoked_key() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene
        .runs(&signed(&scene.job("bob", &["true"]), &["bob"]), &[])
        .await?;
    scene
        .org
        .revoke(RevocationKind::Key, &key("bob").id().to_string());
    scene.push(scene.org.docs()).await?;
    // His other key still counts.
    scene
        .runs(&signed(&scene.job("bob", &["true"]), &["bob-2"]), &[])
        .await?;
    let stolen = signed(&scene.job("bob", &["true"]), &["bob"]);
    scene.refuses(&stolen, Code::KeyRevoked).await
}

async fn hub_sends_a_job_of_a_revoked_operator() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene
        .runs(&signed(&scene.job("bob", &["true"]), &["bob"]), &[])
        .await?;
    scene.org.revoke(RevocationKind::Operator, "bob");
    scene.push(scene.org.docs()).await?;
    let late = signed(&scene.job("bob", &["true"]), &["bob-2"]);
    scene.refuses(&late, Code::OperatorRevoked).await
}
