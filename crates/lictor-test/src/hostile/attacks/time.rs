//! Jobs at the wrong time, and clocks that are wrong.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use lictor_audit::EventType;
use lictor_proto::Code;
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::Outcome;

use super::attacks;
use crate::hostile::org::{DAY, MINUTE, digest, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_replays_a_job_after_the_node_forgot_it => Some(Code::ReplayWindow),
    hub_sets_the_clock_of_a_node_back => Some(Code::ClockBack),
    hub_sends_a_job_of_the_future => Some(Code::IssuedInFuture),
    hub_holds_a_job_back_until_it_has_expired => Some(Code::Expired),
    hub_sends_a_job_that_is_valid_for_too_long => Some(Code::ValidityTooLong),
    hub_withholds_new_law_until_the_old_one_has_expired => Some(Code::BundleExpired),
}

/// The node prunes with its clock ahead; then somebody turns the clock back, and the job is valid once more.
async fn hub_replays_a_job_after_the_node_forgot_it() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let job = scene.signed(&["sh", "-c", &command]);
    let finished = scene.runs(&job, &[]).await?;
    scene.acknowledge(&finished).await?;
    scene.node.notes(0, EventType::ResultAcknowledged).await?;
    scene.node.stop().await?;
    scene.node.clock.ahead(60 * MINUTE);
    scene.mark()?;
    let links = scene.hub.links();
    scene.node.start(|_| {}).await?;
    scene.without_effect(EventType::JournalPruned).await?;
    scene.hub.link_after(links).await?;
    scene.node.clock.ahead(Duration::ZERO);
    let seen = scene.refuses(&job, Code::ReplayWindow).await?;
    ensure!(fs::read_to_string(&runs)? == "x\n", "it ran twice");
    Ok(seen)
}

async fn hub_sets_the_clock_of_a_node_back() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let job = scene.signed(&["true"]);
    scene.node.clock.back(60 * MINUTE);
    let seen = scene.refuses(&job, Code::ClockBack).await?;
    scene.node.clock.back(Duration::ZERO);
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

async fn hub_sends_a_job_of_the_future() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let mut job = scene.job("alice", &["true"]);
    job.issued_at = job.issued_at.plus(10 * MINUTE);
    job.not_before = job.issued_at;
    job.expires_at = job.issued_at.plus(5 * MINUTE);
    scene
        .refuses(&signed(&job, &["alice"]), Code::IssuedInFuture)
        .await
}

async fn hub_holds_a_job_back_until_it_has_expired() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let job = scene.signed(&["true"]);
    scene.node.clock.ahead(10 * MINUTE);
    let seen = scene.refuses(&job, Code::Expired).await?;
    let receipt = scene.receipt(&scene.hub.finished(digest(&job)?).await?)?;
    ensure!(receipt.outcome == Outcome::Expired, "{:?}", receipt.doc());
    Ok(seen)
}

async fn hub_sends_a_job_that_is_valid_for_too_long() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let mut job = scene.job("alice", &["true"]);
    // The demo's fleet.toml allows a day.
    job.expires_at = job.issued_at.plus(2 * DAY);
    scene
        .refuses(&signed(&job, &["alice"]), Code::ValidityTooLong)
        .await
}

async fn hub_withholds_new_law_until_the_old_one_has_expired() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.honest().await?;
    scene.node.clock.ahead(31 * DAY);
    scene.org.pass(31 * DAY);
    // Even with a fresh statement that it is the newest.
    scene
        .push(LawDocs {
            freshness: Some(scene.org.fresh()),
            ..LawDocs::default()
        })
        .await?;
    let job = scene.signed(&["true"]);
    scene.refuses(&job, Code::BundleExpired).await
}
