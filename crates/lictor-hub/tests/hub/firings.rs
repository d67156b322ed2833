//! What nodes fire of schedules by themselves, as the hub hears of it.

use std::time::Duration;

use lictor_link::hyper::{Method, StatusCode};
use lictor_proto::agent::{Event, Request};
use lictor_proto::api::ExecutionState;
use lictor_proto::doc::{FiredWire, Schedule};
use lictor_proto::{Code, Envelope, JobId, Timestamp, limits};
use lictor_trust::SecretKey;

use super::link::{heartbeat, view};
use super::node::{Node, job_digest, one};
use super::offers::failing;
use super::world::{Org, World, until, wire};

/// A schedule of alice's, every ten minutes at UTC, and the first of its times.
fn schedule(org: &Org, node: &Node) -> (String, Timestamp) {
    let wire = org.schedule(&node.id, &["true"]);
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).unwrap();
    let schedule: Schedule = serde_json::from_slice(&envelope.payload).unwrap();
    let first = schedule.timetable().unwrap().after(schedule.issued_at).unwrap();
    (wire, first)
}

/// What a node tells of a firing at this time, and what it goes by.
fn fired(schedule: &str, nominal: Timestamp) -> (String, JobId) {
    let firing = FiredWire {
        nominal,
        schedule: schedule.to_owned(),
    };
    let wire = firing.to_wire();
    let id = JobId::from_digest(&job_digest(&wire));
    (wire, id)
}

fn started(wire: &str) -> Event {
    Event::Started {
        job: job_digest(wire),
        at: Timestamp::now(),
        firing: Some(wire.to_owned()),
    }
}

async fn is_known(world: &World, org: &Org, id: &JobId) -> bool {
    let path = format!("/api/v1/jobs/{id}");
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    answer.status == StatusCode::OK
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_that_begins_is_shown_and_is_offered_to_nobody() {
    let (world, org, node) = one().await;
    let (schedule, first) = schedule(&org, &node);
    let (wire, id) = fired(&schedule, first);
    let mut link = node.link(&world).await;
    link.say(started(&wire));
    until("it is shown", async || is_known(&world, &org, &id).await).await;
    let shown = view(&world, &org, &id).await;
    assert_eq!(shown.executions[0].state, ExecutionState::Running);
    assert_eq!(shown.fired.map(|f| f.nominal), Some(first));
    // A new link brings what waits for the node; nobody waits for this.
    let job = org.job(&node.id, &["true"]);
    super::offers::submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    drop(link);
    let mut link = node.link(&world).await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    assert_eq!(link.offer().await, job);
    assert!(link.offers.try_recv().is_err());
    link.say(Event::Finished(Box::new(node.finished(&wire, b"", 1, 0))));
    link.ack_of_result().await;
    let shown = view(&world, &org, &id).await;
    assert_eq!(shown.executions[0].state, ExecutionState::Succeeded);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_no_firing_of_what_somebody_signed_is_not_shown() {
    let (world, org, node) = one().await;
    let (schedule, first) = schedule(&org, &node);
    let (wire, id) = fired(&schedule, first);
    let link = node.link(&world).await;
    let forged = FiredWire {
        nominal: first,
        schedule: schedule.replacen("signatures", "signature", 1),
    };
    let forged = forged.to_wire();
    let other = fired(&schedule, first.plus(Duration::from_secs(600))).0;
    for told in [forged, other, org.job(&node.id, &["true"])] {
        link.say(Event::Started {
            job: job_digest(&wire),
            at: Timestamp::now(),
            firing: Some(told),
        });
    }
    let (true_one, true_id) = fired(&schedule, first.plus(Duration::from_secs(1200)));
    link.say(started(&true_one));
    until("the true one", async || is_known(&world, &org, &true_id).await).await;
    assert!(!is_known(&world, &org, &id).await);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_keeps_a_firing_that_other_time_zones_could_have_and_no_other() {
    let (world, org, node) = one().await;
    let (schedule, first) = schedule(&org, &node);
    let minutes = |n: u64| first.plus(Duration::from_secs(n * 60));
    let mut link = node.link(&world).await;
    for (nominal, code) in [(first, None), (minutes(15), Some(Code::FiringUnjudged))] {
        let (wire, id) = fired(&schedule, nominal);
        link.say(Event::Finished(Box::new(node.finished(&wire, b"", 1, 0))));
        link.ack_of_result().await;
        let shown = view(&world, &org, &id).await;
        let execution = &shown.executions[0];
        assert_eq!(
            (execution.state, execution.code),
            (ExecutionState::Succeeded, code)
        );
    }
    let (wire, id) = fired(&schedule, minutes(7));
    link.say(Event::Finished(Box::new(node.finished(&wire, b"", 2, 0))));
    let refused = async || {
        world
            .audit(&org)
            .await
            .iter()
            .any(|kind| kind == "result_rejected")
    };
    until("it is refused", refused).await;
    assert!(!is_known(&world, &org, &id).await, "no rules could have that");
    world.hub.shutdown().await;
}

/// To a hub, somebody who has left the roster is one whose key it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_signer_who_left_a_firing_is_kept_as_the_schedule_was_proven_and_what_never_was_is_not() {
    let (world, org, node) = one().await;
    let unknown = SecretKey::generate().unwrap();
    let standing = org.schedule_of(&node.id, &["true"]);
    let proven = wire(&standing, &[&org.alice]);
    let path = "/api/v1/schedules";
    let answer = world.call(Some(&org.secret), Method::POST, path, &proven).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let first = standing.timetable().unwrap().after(standing.issued_at).unwrap();
    let next = first.plus(Duration::from_secs(600));
    let junk = wire(&standing, &[&unknown]);
    assert_eq!(
        job_digest(&junk),
        job_digest(&proven),
        "the same but for its signature"
    );
    let link = node.link(&world).await;

    // Of no schedule that was ever proven here, at the same times.
    let other = wire(&org.schedule_of(&node.id, &["false"]), &[&unknown]);
    let (never, never_id) = fired(&other, first);
    let (no_time, no_time_id) = fired(&junk, first.plus(Duration::from_secs(7 * 60)));
    link.say(started(&never));
    for (told, seq) in [(&never, 1), (&no_time, 2)] {
        link.say(Event::Finished(Box::new(node.finished(told, b"", seq, 0))));
    }
    let refused = async || {
        let audit = world.audit(&org).await;
        audit.iter().filter(|kind| *kind == "result_rejected").count() >= 2
    };
    until("both are refused", refused).await;

    let kept = async |id: &JobId| {
        let row = world.hub.app().store.job(&org.id, id).await.unwrap();
        row.map(|(job, _)| job.envelope)
    };
    // By its start, and by its end alone.
    let (begun, begun_id) = fired(&junk, first);
    link.say(started(&begun));
    until("it is shown", async || is_known(&world, &org, &begun_id).await).await;
    let (ended, ended_id) = fired(&junk, next);
    for (told, seq) in [(&begun, 3), (&ended, 4)] {
        link.say(Event::Finished(Box::new(node.finished(told, b"", seq, 0))));
    }
    for id in [&begun_id, &ended_id] {
        until("it is known", async || is_known(&world, &org, id).await).await;
        until("it has ended", async || {
            view(&world, &org, id).await.executions[0].state == ExecutionState::Succeeded
        })
        .await;
    }
    assert_eq!(kept(&begun_id).await, Some(fired(&proven, first).0));
    assert_eq!(kept(&ended_id).await, Some(fired(&proven, next).0));
    assert_eq!((kept(&never_id).await, kept(&no_time_id).await), (None, None));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_of_the_future_is_neither_shown_nor_kept() {
    let (world, org, node) = one().await;
    let (schedule, first) = schedule(&org, &node);
    let (wire, id) = fired(&schedule, first.plus(Duration::from_secs(3 * 86_400)));
    let (now, its_id) = fired(&schedule, first);
    let link = node.link(&world).await;
    link.say(started(&wire));
    link.say(started(&now));
    until("the other is shown", async || {
        is_known(&world, &org, &its_id).await
    })
    .await;
    link.say(Event::Finished(Box::new(node.finished(&wire, b"", 1, 0))));
    let refused = async || world.audit(&org).await.iter().any(|a| a == "result_rejected");
    until("it is refused", refused).await;
    assert!(!is_known(&world, &org, &id).await);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_that_runs_can_be_canceled_as_a_job_can() {
    let (world, org, node) = one().await;
    let (schedule, first) = schedule(&org, &node);
    let (wire, id) = fired(&schedule, first);
    let (answering, left) = failing(1, |r| matches!(r, Request::CancelJob(_)));
    let mut link = node.link_answering(&world, answering).await;
    link.say(started(&wire));
    until("it is shown", async || is_known(&world, &org, &id).await).await;
    let cancel = org.cancel_on(&wire, vec![node.id.clone()]);
    let path = format!("/api/v1/jobs/{id}/cancel");
    let answer = world.call(Some(&org.secret), Method::POST, &path, &cancel).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let told = tokio::time::timeout(super::world::DEADLINE, link.cancels.recv())
        .await
        .unwrap();
    assert_eq!(told.map(|c| (c.cancel, c.job)), Some((cancel, wire)));
    assert_eq!(
        left.load(std::sync::atomic::Ordering::Relaxed),
        0,
        "it had failed once"
    );
    world.hub.shutdown().await;
}
