//! What people's programs see of the API: pages, problems, streams, the service routes.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lictor_link::dial::{HubUrl, dial};
use lictor_link::http::{collect, full};
use lictor_link::hyper::header::{AUTHORIZATION, HeaderValue};
use lictor_link::hyper::{Method, Request, StatusCode};
use lictor_link::ws;
use lictor_proto::agent::Event;
use lictor_proto::api::{PROBLEM, Page, Problem, StreamFrame};
use lictor_proto::{Code, JobId};

use super::link::{read, view};
use super::node::{Node, frame, job_digest, one};
use super::offers::submit;
use super::poll;
use super::world::{DEADLINE, Org, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_tells_a_job_to_its_last_frame() {
    let (world, org, node) = one().await;
    let (link, job) = node.takes(&world, &org).await;
    let url: HubUrl = format!("http://{}", world.hub.addr).parse().unwrap();
    let io = dial(&url, None, DEADLINE).await.unwrap();
    let path = format!("/api/v1/stream/{}", JobId::from_digest(&job_digest(&job)));
    let bearer = HeaderValue::from_str(&format!("Bearer {}", org.secret)).unwrap();
    let socket = ws::connect(io, &url.authority(), &path, &[(AUTHORIZATION, bearer)]).await;
    let mut socket = socket.unwrap();
    link.print(job_digest(&job), b"hello\n");
    link.say(Event::Finished(Box::new(node.finished(&job, b"hello\n", 1, 0))));
    let told = async {
        let mut frames: Vec<StreamFrame> = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            if let ws::Message::Text(text) = message {
                frames.push(serde_json::from_str(&text).unwrap());
            }
        }
        frames
    };
    let frames = tokio::time::timeout(DEADLINE, told)
        .await
        .expect("the hub closes it");
    assert!(
        frames.iter().any(|f| f.stream == "stdout" && f.data == "hello\n"),
        "{frames:?}"
    );
    let last = frames.last().unwrap();
    assert!(last.is_final && last.data["event"] == "receipt", "{last:?}");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lead_from_one_to_the_next_and_a_made_up_cursor_is_refused() {
    let (world, org, node) = one().await;
    let mut jobs = BTreeSet::new();
    for _ in 0..3 {
        let job = org.job(&node.id, &["true"]);
        submit(&world, &org, &job).await;
        jobs.insert(JobId::from_digest(&job_digest(&job)).to_string());
    }
    let page = async |cursor: &str| {
        let path = format!("/api/v1/jobs?limit=1{cursor}");
        world.call(Some(&org.secret), Method::GET, &path, "").await
    };
    let (mut seen, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let answer = page(&cursor).await;
        let page: Page<serde_json::Value> = serde_json::from_slice(&answer.body).unwrap();
        assert!(page.items.len() <= 1);
        let ids = page
            .items
            .iter()
            .map(|j| j["job_id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        let Some(next) = page.next_cursor else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, jobs);
    assert_eq!(page("&cursor=made-up").await.status, StatusCode::BAD_REQUEST);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_different_result_is_a_conflict_over_http() {
    let (world, org, node) = one().await;
    poll::begin(&node, &org).await;
    let job = org.job(&node.id, &["true"]);
    let id = JobId::from_digest(&job_digest(&job));
    let path = format!("/api/v1/agent/jobs/{id}/result");
    let post = async |seq, exit| {
        let mut finished = node.finished(&job, b"", seq, exit);
        (finished.log_end, finished.kept) = (0, Vec::new());
        let body = serde_json::to_vec(&finished).unwrap();
        node.call(Method::POST, &path, body).await
    };
    assert_eq!(post(1, 0).await.status, StatusCode::OK);
    let answer = post(2, 1).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem.code, Code::ResultConflict);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_problem_documents_that_name_their_request() {
    let world = World::new().await;
    let ask = async |id: Option<&str>| {
        let mut request = Request::get("/api/v1/jobs");
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let answer = world
            .client()
            .send(request.body(full("")).unwrap(), DEADLINE)
            .await;
        let (head, body) = answer.unwrap().into_parts();
        assert_eq!(head.headers["content-type"], PROBLEM);
        let problem: Problem = serde_json::from_slice(&collect(body, 65_536).await.unwrap()).unwrap();
        assert_eq!(head.headers["x-request-id"], problem.request_id.as_str());
        problem.request_id
    };
    assert_ne!(ask(None).await, ask(None).await);
    assert_eq!(ask(Some("mine-1")).await, "mine-1");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_text_and_a_stopping_hub_is_not_ready() {
    let world = World::new().await;
    let get = async |path: &str| world.call(None, Method::GET, path, "").await;
    assert_eq!(get("/ready").await.status, StatusCode::OK);
    let metrics = get("/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(
        text.contains("# TYPE lictor_hub_requests_total counter"),
        "{text}"
    );
    world.hub.app().stop.cancel();
    assert_eq!(get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get("/health").await.status, StatusCode::OK);
    world.hub.shutdown().await;
}

/// Bytes that do not compress.
fn noise(n: usize) -> Vec<u8> {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    };
    (0..n).map(step).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_log_is_an_object_and_is_read_back_whole() {
    let (world, org, node) = one().await;
    let (mut link, job) = node.takes(&world, &org).await;
    let out = noise(200 * 1024);
    link.print(job_digest(&job), &out);
    link.say(Event::Finished(Box::new(node.finished(&job, &out, 1, 0))));
    link.ack_of_result().await;
    let logs = world.dir.path().join("objects/logs").join(org.id.as_str());
    assert_eq!(std::fs::read_dir(logs).unwrap().count(), 1);
    let path = format!("/api/v1/stream/{}", JobId::from_digest(&job_digest(&job)));
    let (read_back, _) = read(&world, &org, Method::GET, &path, String::new()).await;
    assert!(read_back == out, "{} of {} bytes", read_back.len(), out.len());
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_org_changes_nothing_and_sees_nothing() {
    let world = World::new().await;
    let (mine, theirs) = (world.org("mine").await, world.org("theirs").await);
    let node = Node::enrol(&world, &mine, "web-1").await;
    let stranger = Node::enrol(&world, &theirs, "web-1").await;
    let job = mine.job(&node.id, &["true"]);
    let id = JobId::from_digest(&job_digest(&job));
    submit(&world, &mine, &job).await;
    let before = view(&world, &mine, &id).await;
    poll::begin(&stranger, &theirs).await;
    let post = async |what: &str, body: Vec<u8>| {
        let path = format!("/api/v1/agent/jobs/{id}/{what}");
        stranger.call(Method::POST, &path, body).await.status
    };
    let started = format!(r#"{{"at":"{}"}}"#, lictor_proto::Timestamp::now());
    post("started", started.into_bytes()).await;
    post("heartbeat", Vec::new()).await;
    // It may be of a job that this hub has lost, so it is kept under the stranger's own org.
    post("log?at=0", frame(b"forged")).await;
    for by in [&node, &stranger] {
        let forged = serde_json::to_vec(&by.finished(&job, b"", 1, 0)).unwrap();
        let refused = post("result", forged).await;
        assert!(
            refused.is_client_error() || refused.is_server_error(),
            "{refused}"
        );
    }
    let path = "/api/v1/agent/jobs/next?wait=0";
    let orders = stranger.call(Method::GET, path, Vec::new()).await;
    let text = String::from_utf8_lossy(&orders.body).into_owned();
    assert!(
        !text.contains(id.as_str()) && !text.contains("\"offer\""),
        "{text}"
    );
    let after = view(&world, &mine, &id).await;
    assert_eq!(after.executions, before.executions);
    let path = format!("/api/v1/stream/{id}?follow=false");
    let (out, _) = read(&world, &mine, Method::GET, &path, String::new()).await;
    assert_eq!(out, b"");
    world.hub.shutdown().await;
}

/// The audit log of a whole life of an org holds each kind of event that the other tests do not name.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_law_and_cancels_and_lost_links_are_recorded() {
    let world = World::new().await;
    let (org, other) = (world.org("one").await, world.org("two").await);
    let node = Node::enrol(&world, &org, "web-1").await;
    let job = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    let post =
        async |path: String, body: &str| world.call(Some(&org.secret), Method::POST, &path, body).await;
    let cancel = format!("/api/v1/jobs/{}/cancel", JobId::from_digest(&job_digest(&job)));
    assert!(post(cancel, &other.cancel(&job)).await.status.is_client_error());
    let forged = serde_json::json!({ "bundle": other.cancel(&job) }).to_string();
    post("/api/v1/trust".to_owned(), &forged).await;
    drop(node.link(&world).await);
    world
        .hub
        .app()
        .links
        .get(&org.id, &node.id)
        .unwrap()
        .stop
        .cancel();
    let expected = ["cancel_rejected", "law_rejected", "node_disconnected"];
    recorded(&world, &org, &expected).await;
    world.hub.shutdown().await;
}

async fn recorded(world: &World, org: &Org, kinds: &[&str]) {
    for kind in kinds {
        super::world::until(kind, async || world.audit(org).await.iter().any(|a| a == kind)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_read_is_passed_over_and_told_what_it_missed() {
    let (world, org, node) = one().await;
    let (mut link, job) = node.takes(&world, &org).await;
    let path = format!("/api/v1/stream/{}", JobId::from_digest(&job_digest(&job)));
    let request = Request::get(path)
        .header("accept", lictor_proto::api::FRAMES)
        .header("authorization", format!("Bearer {}", org.secret));
    let client = world.client();
    let slow = client
        .send(request.body(full("")).unwrap(), DEADLINE)
        .await
        .unwrap();
    // More than the sockets and the follower's queue hold, in pieces; nobody reads meanwhile.
    let (mut at, mut offset) = (0, 0);
    for _ in 0..200 {
        let frames = super::node::frame_at(offset, &noise(64 * 1024));
        offset += 64 * 1024;
        let message = lictor_proto::agent::stream::Message::Output {
            job: job_digest(&job),
            at,
            frames: Bytes::from(frames.clone()),
        };
        at += frames.len() as u64;
        link.events.send(message).unwrap();
    }
    let mut finished = node.finished(&job, b"", 1, 0);
    (finished.log_end, finished.kept) = (at, Vec::new());
    link.say(Event::Finished(Box::new(finished)));
    link.ack_of_result().await;
    // The relay waited for nobody. The slow one now reads what is stored, and its stream ends with the receipt.
    let rest = tokio::time::timeout(DEADLINE, collect(slow.into_body(), 64 * 1024 * 1024)).await;
    let text = rest.expect("it ends").unwrap();
    let end = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned();
    assert!(end.contains("\"receipt\""), "{end}");
    world.hub.shutdown().await;
}
