//! Schedules that were changed, moved, brought back, or passed off as something else, and clocks that are turned.

use std::fs;

use anyhow::{Result, ensure};
use lictor_audit::EventType;
use lictor_proto::agent::{LawDocs, OfferReply, Request};
use lictor_proto::doc::{Fired, FiredWire, Missed, Outcome, Overlap, Schedule};
use lictor_proto::{Code, Envelope, NodeId, Timestamp, limits};

use super::attacks;
use crate::hostile::org::{DAY, digest, key, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_changes_when_a_schedule_fires => Some(Code::SignatureInvalid),
    hub_gives_a_schedule_to_another_node => Some(Code::WrongNode),
    hub_brings_a_removed_schedule_back => Some(Code::Replayed),
    hub_withholds_the_end_of_a_schedule_past_max_staleness => Some(Code::Stale),
    hub_sends_a_job_as_a_schedule => Some(Code::SignatureInvalid),
    hub_sends_a_schedule_as_a_job => Some(Code::SignatureInvalid),
    hub_fires_a_schedule_itself => Some(Code::EnvelopeMalformed),
    hub_has_a_clock_turned_back_over_a_firing => None,
}

/// Alice's, every minute: what has been missed is made up for, so a turned clock is enough to have it fire.
pub(super) fn standing(scene: &Scene, argv: &[&str]) -> Schedule {
    let job = scene.job("alice", argv);
    Schedule {
        tag: Default::default(),
        org: job.org,
        operator: job.operator,
        nonce: job.nonce,
        nodes: job.nodes,
        kind: job.kind,
        spec: job.spec,
        profile: job.profile,
        secrets: Default::default(),
        expect: Default::default(),
        reason: String::new(),
        cron: "* * * * *".to_owned(),
        tz: "UTC".to_owned(),
        jitter_ms: 0,
        missed: Missed::Once,
        overlap: Overlap::Skip,
        start_within_ms: 60 * 60_000,
        min_bundle: 1,
        issued_at: job.issued_at,
        not_before: job.issued_at,
        ends_at: job.issued_at.plus(20 * DAY),
    }
}

fn after(schedule: &Schedule, time: Timestamp) -> Timestamp {
    let next = schedule.timetable().ok().and_then(|t| t.after(time));
    next.unwrap_or_default()
}

/// Turns the node's clock to the next time of a schedule, and waits for the end of what it fires then.
async fn fires(scene: &Scene, wire: &str, nominal: Timestamp) -> Result<Outcome> {
    let ahead = nominal.since(Timestamp::now());
    scene
        .node
        .clock
        .ahead(ahead + std::time::Duration::from_millis(1));
    let fired = Fired {
        schedule: digest(wire)?,
        nominal,
    };
    let finished = scene.hub.finished(fired.digest()).await?;
    let receipt = scene.receipt(&finished)?;
    ensure!(receipt.fired == Some(fired), "{:?}", receipt.doc());
    scene.acknowledge(&finished).await?;
    Ok(receipt.outcome)
}

/// Given honestly, and seen to fire.
async fn stands(scene: &Scene, schedule: &Schedule) -> Result<(String, Timestamp)> {
    let wire = signed(schedule, &["alice"]);
    let reply = scene.offer(&wire, &[]).await?;
    ensure!(reply == OfferReply::Accepted, "{reply:?}");
    let first = after(schedule, schedule.issued_at);
    ensure!(
        fires(scene, &wire, first).await? == Outcome::Succeeded,
        "an honest one fires"
    );
    Ok((wire, first))
}

fn changed(wire: &str, change: impl FnOnce(&mut Envelope) -> Result<()>) -> Result<String> {
    let mut envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE)?;
    change(&mut envelope)?;
    Ok(String::from_utf8(envelope.to_bytes())?)
}

async fn hub_changes_when_a_schedule_fires() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let schedule = standing(&scene, &["sh", "-c", &command]);
    let mut hourly = schedule.clone();
    hourly.cron = "0 * * * *".to_owned();
    let faster = changed(&signed(&hourly, &["alice"]), |e| {
        e.payload = lictor_proto::json::to_vec(&schedule)?;
        Ok(())
    })?;
    let seen = scene.refuses(&faster, Code::SignatureInvalid).await?;
    ensure!(!runs.exists(), "it ran");
    stands(&scene, &schedule).await?;
    Ok(seen)
}

async fn hub_gives_a_schedule_to_another_node() -> Result<Seen> {
    let scene = Scene::set().await?;
    stands(&scene, &standing(&scene, &["true"])).await?;
    let mut schedule = standing(&scene, &["true"]);
    schedule.nodes = vec![NodeId::derive(
        &scene.org.id,
        &key("another machine").public().key,
    )];
    scene
        .refuses(&signed(&schedule, &["alice"]), Code::WrongNode)
        .await
}

/// Alice has ended it, and nobody has kept the cancel but the node.
async fn hub_brings_a_removed_schedule_back() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let schedule = standing(&scene, &["sh", "-c", &command]);
    let (wire, first) = stands(&scene, &schedule).await?;
    let cancel = signed(&scene.org.cancel(digest(&wire)?, "alice"), &["alice"]);
    scene.hub.ask(&Request::Cancel(cancel)).await?;
    let ended = scene.hub.finished(digest(&wire)?).await?;
    ensure!(scene.receipt(&ended)?.outcome == Outcome::Canceled, "it ended");
    scene.acknowledge(&ended).await?;
    ensure!(
        scene.offer(&wire, &[]).await? == OfferReply::Known,
        "not taken again"
    );
    let seen = scene.noted(Code::Replayed).await?;
    // Another one fires at the next time, and this one does not.
    let witness = signed(&standing(&scene, &["true"]), &["alice"]);
    ensure!(scene.offer(&witness, &[]).await? == OfferReply::Accepted);
    fires(&scene, &witness, after(&schedule, first)).await?;
    ensure!(fs::read_to_string(&runs)? == "x\n", "it fired again");
    Ok(seen)
}

/// The schedule has been revoked, and the hub lets the node hear neither of that nor of anything newer.
async fn hub_withholds_the_end_of_a_schedule_past_max_staleness() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let schedule = standing(&scene, &["sh", "-c", &command]);
    let (wire, _) = stands(&scene, &schedule).await?;
    scene
        .push(LawDocs {
            freshness: Some(scene.org.fresh()),
            ..LawDocs::default()
        })
        .await?;
    scene.mark()?;
    let later = after(&schedule, Timestamp::now().plus(8 * DAY));
    scene.node.clock.ahead(later.since(Timestamp::now()));
    let seen = scene.noted(Code::Stale).await?;
    scene
        .node
        .clock
        .ahead(later.plus(schedule.window()).since(Timestamp::now()));
    let fired = Fired {
        schedule: digest(&wire)?,
        nominal: later,
    };
    // What could not begin has its receipt when the next time comes, or when its own is over.
    let receipt = scene.receipt(&scene.hub.finished(fired.digest()).await?)?;
    ensure!(
        (receipt.outcome, receipt.code) == (Outcome::Expired, Some(Code::Stale)),
        "{:?}",
        receipt.doc()
    );
    ensure!(fs::read_to_string(&runs)? == "x\n", "it fired");
    Ok(seen)
}

async fn hub_sends_a_job_as_a_schedule() -> Result<Seen> {
    let scene = Scene::set().await?;
    let job = scene.signed(&["true"]);
    let kind = signed(&standing(&scene, &["true"]), &["alice"]);
    let kind = Envelope::parse(kind.as_bytes(), limits::ENVELOPE)?.payload_type;
    let seen = scene
        .refuses(
            &changed(&job, |e| {
                e.payload_type = kind;
                Ok(())
            })?,
            Code::SignatureInvalid,
        )
        .await?;
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

async fn hub_sends_a_schedule_as_a_job() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let schedule = standing(&scene, &["sh", "-c", &command]);
    let wire = signed(&schedule, &["alice"]);
    let job = Envelope::parse(scene.signed(&["true"]).as_bytes(), limits::ENVELOPE)?.payload_type;
    let as_job = changed(&wire, |e| {
        e.payload_type = job;
        Ok(())
    })?;
    let seen = scene.refuses(&as_job, Code::SignatureInvalid).await?;
    ensure!(!runs.exists(), "it ran at once");
    stands(&scene, &schedule).await?;
    Ok(seen)
}

/// What a node itself tells of a firing, sent to it as if somebody had asked for it.
async fn hub_fires_a_schedule_itself() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let schedule = standing(&scene, &["sh", "-c", &command]);
    let (wire, first) = stands(&scene, &schedule).await?;
    let firing = FiredWire {
        nominal: after(&schedule, first),
        schedule: wire,
    };
    let seen = scene.refuses(&firing.to_wire(), Code::EnvelopeMalformed).await?;
    ensure!(fs::read_to_string(&runs)? == "x\n", "it ran");
    Ok(seen)
}

/// The clock goes back, the same time comes again, and nothing runs a second time.
async fn hub_has_a_clock_turned_back_over_a_firing() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let schedule = standing(&scene, &["sh", "-c", &command]);
    let (wire, first) = stands(&scene, &schedule).await?;
    // Another that was signed before fires when the clock comes by a second time: the node has looked.
    let mut witness = standing(&scene, &["true"]);
    (witness.issued_at, witness.not_before) = (schedule.issued_at, schedule.issued_at);
    scene.node.clock.ahead(std::time::Duration::ZERO);
    let witness = signed(&witness, &["alice"]);
    ensure!(scene.offer(&witness, &[]).await? == OfferReply::Accepted);
    fires(&scene, &witness, first).await?;
    ensure!(fs::read_to_string(&runs)? == "x\n", "the same time fired again");
    let second = after(&schedule, first);
    fires(&scene, &wire, second).await?;
    ensure!(fs::read_to_string(&runs)? == "x\nx\n", "each time once");
    scene.without_effect(EventType::ScheduleTaken).await
}
