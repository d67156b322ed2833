//! Jobs through a real link: live, late, lost and conflicting.

use lictor_link::http::full;
use lictor_link::hyper::{Method, Request, StatusCode};
use lictor_proto::agent::Event;
use lictor_proto::api::{ExecutionState, FRAMES, JobView, StreamEvent};
use lictor_proto::frame::{FrameDecoder, FrameKind};
use lictor_proto::{Code, JobId, Timestamp};

use super::node::{Node, job_digest, one};
use super::world::{DEADLINE, Org, World, until};

/// Output and events of a whole stream.
pub async fn read(
    world: &World,
    org: &Org,
    method: Method,
    path: &str,
    body: String,
) -> (Vec<u8>, Vec<StreamEvent>) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("accept", FRAMES)
        .header("authorization", format!("Bearer {}", org.secret));
    let request = request.body(full(body)).unwrap();
    let answer = world
        .client()
        .call(request, 64 * 1024 * 1024, DEADLINE)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let mut decoder = FrameDecoder::default();
    decoder.push(&answer.body);
    let (mut out, mut events) = (Vec::new(), Vec::new());
    while let Some(frame) = decoder.next_frame().unwrap() {
        match frame.kind {
            FrameKind::Event => events.push(serde_json::from_slice(&frame.payload).unwrap()),
            FrameKind::Stdout => out.extend_from_slice(&frame.payload),
            _ => {}
        }
    }
    (out, events)
}

pub async fn view(world: &World, org: &Org, id: &JobId) -> JobView {
    let answer = world
        .call(Some(&org.secret), Method::GET, &format!("/api/v1/jobs/{id}"), "")
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_job_streams_and_its_result_is_acknowledged_and_kept() {
    let (world, org, node) = one().await;
    let mut link = node.link(&world).await;
    let job = org.job(&node.id, &["true"]);
    let digest = job_digest(&job);
    let id = JobId::from_digest(&digest);
    let submitted = read(&world, &org, Method::POST, "/api/v1/jobs", job.clone());
    let played = async {
        assert_eq!(link.offer().await, job);
        link.say(Event::Started {
            job: digest,
            at: Timestamp::now(),
            firing: None,
        });
        link.print(digest, b"hello\n");
        link.say(Event::Finished(Box::new(node.finished(&job, b"hello\n", 1, 0))));
        link.ack_of_result().await
    };
    let ((out, events), _) = tokio::join!(submitted, played);
    assert_eq!(out, b"hello\n");
    assert!(
        matches!(events.first(), Some(StreamEvent::Submitted { .. })),
        "{events:?}"
    );
    assert!(
        matches!(events.last(), Some(StreamEvent::Receipt { .. })),
        "{events:?}"
    );
    // A late follower, and one after a restart, gets the same from the store.
    let path = format!("/api/v1/stream/{id}");
    let (out, events) = read(&world, &org, Method::GET, &path, String::new()).await;
    assert_eq!(out, b"hello\n");
    assert!(
        matches!(events.last(), Some(StreamEvent::Receipt { .. })),
        "{events:?}"
    );
    let world = world.restart().await;
    let (out, _) = read(&world, &org, Method::GET, &path, String::new()).await;
    assert_eq!(out, b"hello\n");
    let execution = view(&world, &org, &id).await.executions.remove(0);
    assert_eq!(execution.state, ExecutionState::Succeeded);
    let audit = world.audit(&org).await;
    for kind in ["node_enrolled", "job_submitted", "result_stored"] {
        assert!(audit.iter().any(|a| a == kind), "{kind} in {audit:?}");
    }
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_an_absent_node_waits_for_it() {
    let (world, org, node) = one().await;
    let job = org.job(&node.id, &["true"]);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/jobs", &job)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let again = world
        .call(Some(&org.secret), Method::POST, "/api/v1/jobs", &job)
        .await;
    assert_eq!(
        again.status,
        StatusCode::ACCEPTED,
        "the same job again is the same answer"
    );
    let mut link = node.link(&world).await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    assert_eq!(link.offer().await, job);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_for_a_lost_job_is_inserted_and_a_second_different_one_conflicts() {
    let (world, org, node) = one().await;
    let mut link = node.link(&world).await;
    let job = org.job(&node.id, &["true"]);
    let id = JobId::from_digest(&job_digest(&job));
    let first = node.finished(&job, b"", 1, 0);
    link.say(Event::Finished(Box::new(first.clone())));
    let acked = link.ack_of_result().await;
    link.say(Event::Finished(Box::new(first)));
    assert_eq!(
        link.ack_of_result().await,
        acked,
        "the same result again is acknowledged again"
    );
    link.say(Event::Finished(Box::new(node.finished(&job, b"", 2, 1))));
    until("the conflict is in the audit log", async || {
        world.audit(&org).await.iter().any(|a| a == "result_conflicted")
    })
    .await;
    let execution = view(&world, &org, &id).await.executions.remove(0);
    assert_eq!(execution.state, ExecutionState::Succeeded);
    world.hub.shutdown().await;
}

pub fn heartbeat(org: &Org, node: &Node) -> lictor_proto::agent::Heartbeat {
    lictor_proto::agent::Heartbeat {
        org: org.id.clone(),
        node_id: node.id.clone(),
        name: super::world::name("web-1"),
        kind: lictor_proto::doc::NodeKind::Server,
        agent_version: "0.1.0".to_owned(),
        law: lictor_proto::agent::LawHeld {
            root: 1,
            bundle: 1,
            bundle_digest: None,
            freshness: None,
            revocations: 0,
            deny_all: None,
        },
        host: Default::default(),
        backends: Vec::new(),
        running: 0,
        unacknowledged: 0,
        at: Timestamp::now(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_cancelled_while_its_node_is_away_is_handed_over_with_its_cancel_and_never_offered() {
    let (world, org, node) = one().await;
    let job = org.job(&node.id, &["true"]);
    let (id, cancel) = (JobId::from_digest(&job_digest(&job)), org.cancel(&job));
    let post = |path: String, body: String| {
        let (world, secret) = (&world, &org.secret);
        async move { world.call(Some(secret), Method::POST, &path, &body).await }
    };
    let answer = post("/api/v1/jobs".to_owned(), job.clone()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let answer = post(format!("/api/v1/jobs/{id}/cancel"), cancel.clone()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let waiting = view(&world, &org, &id).await.executions.remove(0);
    assert_eq!(
        (waiting.state, waiting.code),
        (ExecutionState::Queued, Some(Code::Canceled)),
        "the hub does not say that it ended: only its node can"
    );
    let mut link = node.link(&world).await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    let told = tokio::time::timeout(DEADLINE, link.cancels.recv()).await.unwrap();
    assert_eq!(told.map(|c| (c.cancel, c.job)), Some((cancel, job)));
    // A job that comes later is offered; the cancelled one was not, before it.
    let next = org.job(&node.id, &["true"]);
    let answer = post("/api/v1/jobs".to_owned(), next.clone()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(link.offer().await, next);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_result_is_recorded_put_aside_and_not_asked_for_again() {
    let (world, org, node) = one().await;
    let other = Node::enrol(&world, &org, "web-2").await;
    let mut link = node.link(&world).await;
    let job = org.job(&node.id, &["true"]);
    let forged = other.finished(&job, b"", 1, 0);
    link.say(Event::Finished(Box::new(forged)));
    link.ack_of_result().await;
    let audit = world.audit(&org).await;
    for kind in ["result_rejected", "result_quarantined"] {
        assert!(audit.iter().any(|a| a == kind), "{kind} in {audit:?}");
    }
    let id = JobId::from_digest(&job_digest(&job));
    let answer = world
        .call(Some(&org.secret), Method::GET, &format!("/api/v1/jobs/{id}"), "")
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "nothing of it is shown");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_whose_result_is_put_aside_is_lost_until_a_good_one_comes() {
    let (world, org, node) = one().await;
    let other = Node::enrol(&world, &org, "web-2").await;
    let (mut link, job) = node.takes(&world, &org).await;
    let id = JobId::from_digest(&job_digest(&job));
    let state = async || view(&world, &org, &id).await.executions.remove(0).state;
    until("it is taken", async || state().await == ExecutionState::Leased).await;
    link.say(Event::Finished(Box::new(other.finished(&job, b"", 1, 0))));
    link.ack_of_result().await;
    assert_eq!(state().await, ExecutionState::Lost);
    link.say(Event::Finished(Box::new(node.finished(&job, b"", 1, 0))));
    link.ack_of_result().await;
    assert_eq!(state().await, ExecutionState::Succeeded);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_no_job_that_is_not_for_it() {
    let (world, org, node) = one().await;
    let other = Node::enrol(&world, &org, "web-2").await;
    let mut link = other.link(&world).await;
    let job = org.job(&node.id, &["true"]);
    link.say(Event::Finished(Box::new(other.finished(&job, b"", 1, 0))));
    link.ack_of_result().await;
    let audit = world.audit(&org).await;
    assert!(audit.iter().any(|a| a == "result_rejected"), "{audit:?}");
    let id = JobId::from_digest(&job_digest(&job));
    let path = format!("/api/v1/jobs/{id}");
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "nothing of it is shown");

    // The same from the node that it is for.
    let mut link = node.link(&world).await;
    link.say(Event::Finished(Box::new(node.finished(&job, b"", 1, 0))));
    link.ack_of_result().await;
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_tell_output_and_receipt_and_mark_the_last() {
    let (world, org, node) = one().await;
    let (mut link, job) = node.takes(&world, &org).await;
    let digest = job_digest(&job);
    link.print(digest, b"hello\n");
    link.say(Event::Finished(Box::new(node.finished(&job, b"hello\n", 1, 0))));
    link.ack_of_result().await;
    let path = format!("/api/v1/stream/{}", JobId::from_digest(&digest));
    let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let frames: Vec<serde_json::Value> = text
        .split("\n\n")
        .filter_map(|e| e.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    assert!(
        frames
            .iter()
            .any(|f| f["stream"] == "stdout" && f["data"] == "hello\n"),
        "{text}"
    );
    let seqs: Vec<_> = frames.iter().map(|f| f["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (0..frames.len() as u64).collect::<Vec<_>>());
    let last: Vec<_> = frames.iter().map(|f| f["final"] == true).collect();
    assert_eq!(last.iter().filter(|l| **l).count(), 1, "{text}");
    assert_eq!(frames.last().unwrap()["data"]["event"], "receipt");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_lease_is_lost_is_not_offered_again_and_a_late_receipt_wins() {
    let world = World::with(|c| c.lease_seconds = 1).await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let (link, job) = node.takes(&world, &org).await;
    let digest = job_digest(&job);
    let id = JobId::from_digest(&digest);
    link.say(Event::Started {
        job: digest,
        at: Timestamp::now(),
        firing: None,
    });
    let state = async || view(&world, &org, &id).await.executions.remove(0).state;
    until("the execution is lost", async || {
        state().await == ExecutionState::Lost
    })
    .await;
    // The node comes again: what was lost is not offered to it a second time.
    let mut link = node.link(&world).await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    link.say(Event::Finished(Box::new(node.finished(&job, b"", 1, 0))));
    link.ack_of_result().await;
    assert_eq!(state().await, ExecutionState::Succeeded);
    assert!(link.offers.try_recv().is_err(), "never handed to run again");
    assert!(world.audit(&org).await.iter().any(|a| a == "job_lost"));
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_stops_ends_the_streams_of_its_followers() {
    let world = World::with(|c| c.grace_seconds = 60).await;
    let org = world.org("one").await;
    let node = Node::enrol(&world, &org, "web-1").await;
    let job = org.job(&node.id, &["true"]);
    let answer = world
        .call(Some(&org.secret), Method::POST, "/api/v1/jobs", &job)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let id = JobId::from_digest(&job_digest(&job));
    let client = world.client();
    let mut bodies = Vec::new();
    for accept in [FRAMES, "text/event-stream"] {
        let request = Request::get(format!("/api/v1/stream/{id}"))
            .header("accept", accept)
            .header("authorization", format!("Bearer {}", org.secret));
        let answer = client
            .send(request.body(full("")).unwrap(), DEADLINE)
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        bodies.push(answer.into_body());
    }
    let read = async {
        for body in bodies {
            let _ = lictor_link::http::collect(body, 1024 * 1024).await;
        }
    };
    let stopped = async { tokio::join!(world.hub.shutdown(), read) };
    tokio::time::timeout(DEADLINE, stopped)
        .await
        .expect("long before the grace is over");
}
