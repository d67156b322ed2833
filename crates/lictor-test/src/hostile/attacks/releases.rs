//! A hub that does not wait: jobs that begin on a node without a release of it, where the law demands one.

use anyhow::{Result, ensure};
use lictor_proto::agent::OfferReply;
use lictor_proto::doc::Release;
use lictor_proto::{Code, Digest, NodeId};

use super::attacks;
use crate::hostile::org::{MINUTE, digest, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_begins_a_job_everywhere_at_once => Some(Code::ReleaseNeeded),
    hub_moves_a_release_to_another_job => Some(Code::WrongJob),
    hub_uses_the_release_of_another_node => Some(Code::WrongNode),
    hub_signs_a_release_itself => Some(Code::SignerUnknown),
    hub_has_somebody_release_who_may_not => Some(Code::ReleaseIneligible),
    hub_keeps_a_release_until_it_has_expired => Some(Code::Expired),
    hub_sends_an_approval_as_a_release => Some(Code::WrongType),
    hub_begins_a_released_job_twice => Some(Code::Replayed),
}

const DEMAND: &str = r#"
@id("batch-by-batch") @releasers("leads")
forbid (principal, action in [Action::"exec", Action::"shell"], resource);
"#;

/// A node whose law demands a release. Without that law a job begins there by itself.
async fn demanding() -> Result<Scene> {
    let mut scene = Scene::set().await?;
    scene.honest().await?;
    scene.org.next_bundle(|b| {
        b.files.insert("policies/release.cedar".into(), DEMAND.into());
    });
    scene.push(scene.org.docs()).await?;
    scene.mark()?;
    Ok(scene)
}

/// A release by bob, who is one of the leads, with `change` made to it before this key signs.
fn release(scene: &Scene, job: &str, key: &str, change: impl FnOnce(&mut Release)) -> Result<String> {
    let mut release = scene.org.release(digest(job)?, "bob", &scene.id);
    change(&mut release);
    Ok(signed(&release, &[key]))
}

/// A job that does not begin with this release, and then does with an honest one.
async fn refused(code: Code, forge: impl FnOnce(&Scene, &str) -> Result<String>) -> Result<Seen> {
    let scene = demanding().await?;
    let job = scene.signed(&["true"]);
    let forged = forge(&scene, &job)?;
    waits(&scene, &job, &[forged]).await?;
    let seen = scene.noted(code).await?;
    begins(&scene, &job).await?;
    Ok(seen)
}

async fn waits(scene: &Scene, job: &str, releases: &[String]) -> Result<()> {
    let reply = scene.offer_released(job, &[], releases).await?;
    let OfferReply::Ask(ask) = reply else {
        anyhow::bail!("IT GOT THROUGH: {reply:?}");
    };
    let ask = scene.trust()?.verify_ask(&scene.keys()?, &ask)?;
    ensure!(ask.gates.iter().all(|g| g.release), "{:?}", ask.gates);
    Ok(())
}

async fn begins(scene: &Scene, job: &str) -> Result<()> {
    let honest = release(scene, job, "bob", |_| {})?;
    let reply = scene
        .offer_released(job, &[], std::slice::from_ref(&honest))
        .await?;
    ensure!(reply == OfferReply::Accepted, "released, it is {reply:?}");
    let finished = scene.succeeded(job).await?;
    let receipt = scene.receipt(&finished)?;
    ensure!(
        receipt.approvals == [digest(&honest)?],
        "the receipt names the release"
    );
    Ok(())
}

async fn hub_begins_a_job_everywhere_at_once() -> Result<Seen> {
    let scene = demanding().await?;
    let job = scene.signed(&["true"]);
    waits(&scene, &job, &[]).await?;
    let seen = scene.noted(Code::ReleaseNeeded).await?;
    begins(&scene, &job).await?;
    Ok(seen)
}

async fn hub_moves_a_release_to_another_job() -> Result<Seen> {
    refused(Code::WrongJob, |scene, _| {
        let other = scene.signed(&["true"]);
        release(scene, &other, "bob", |_| {})
    })
    .await
}

async fn hub_uses_the_release_of_another_node() -> Result<Seen> {
    refused(Code::WrongNode, |scene, job| {
        release(scene, job, "bob", |r| {
            r.nodes = vec![NodeId::derive(&scene.org.id, &Digest::of(b"another").0)];
        })
    })
    .await
}

async fn hub_signs_a_release_itself() -> Result<Seen> {
    refused(Code::SignerUnknown, |scene, job| {
        release(scene, job, "the hub", |_| {})
    })
    .await
}

/// Dave is in the roster, and not one of the leads.
async fn hub_has_somebody_release_who_may_not() -> Result<Seen> {
    refused(Code::ReleaseIneligible, |scene, job| {
        release(scene, job, "dave", |r| {
            r.operator = crate::hostile::org::name("dave")
        })
    })
    .await
}

async fn hub_keeps_a_release_until_it_has_expired() -> Result<Seen> {
    let scene = demanding().await?;
    let job = scene.signed(&["true"]);
    let short = release(&scene, &job, "bob", |r| {
        r.expires_at = r.issued_at.plus(MINUTE);
    })?;
    scene.node.clock.ahead(2 * MINUTE);
    waits(&scene, &job, &[short]).await?;
    let seen = scene.noted(Code::Expired).await?;
    begins(&scene, &job).await?;
    Ok(seen)
}

async fn hub_sends_an_approval_as_a_release() -> Result<Seen> {
    refused(Code::WrongType, |scene, job| {
        Ok(signed(&scene.org.approval(digest(job)?, "bob"), &["bob"]))
    })
    .await
}

async fn hub_begins_a_released_job_twice() -> Result<Seen> {
    let scene = demanding().await?;
    let job = scene.signed(&["true"]);
    begins(&scene, &job).await?;
    let honest = release(&scene, &job, "bob", |_| {})?;
    let again = scene.offer_released(&job, &[], &[honest]).await?;
    ensure!(again == OfferReply::Known, "offered again, it is {again:?}");
    scene.noted(Code::Replayed).await
}
