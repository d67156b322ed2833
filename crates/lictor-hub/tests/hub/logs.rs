//! Logs that are longer than what is stored as it comes, and a store that fails for a while.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use lictor_link::http::full;
use lictor_link::hyper::{Method, Request, StatusCode};
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, Finished, LogRange};
use lictor_proto::api::{FRAMES, LogStored, StreamEvent};
use lictor_proto::{JobId, Timestamp};
use tokio::sync::{mpsc, watch};

use super::link::read;
use super::node::{Node, frame, frame_at, job_digest, one};
use super::offers::submit;
use super::poll;
use super::world::{DEADLINE, Org, World};

/// A body whose pieces the test sends.
fn fed(pieces: mpsc::UnboundedReceiver<Vec<u8>>) -> Body {
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async {
        Some((Ok::<_, Infallible>(pieces.recv().await?), pieces))
    });
    Body::from_stream(pieces)
}

/// What is stored of a job's log, without waiting for more.
async fn stored(world: &World, org: &Org, id: &JobId) -> (Vec<u8>, Vec<StreamEvent>) {
    let path = format!("/api/v1/stream/{id}?follow=false");
    read(world, org, Method::GET, &path, String::new()).await
}

/// A log of two frames, of which the hub stores the first as it comes and the node keeps both, and its end.
fn long_log(node: &Node, job: &str) -> (Vec<u8>, Vec<u8>, Finished) {
    let (head, tail) = (frame(&[b'h'; 40_000]), frame_at(40_000, &[b't'; 50_000]));
    let mut finished = node.finished(job, b"", 1, 0);
    let (middle, end) = (head.len() as u64, (head.len() + tail.len()) as u64);
    finished.log_end = end;
    finished.kept = vec![
        LogRange {
            from: 0,
            to: middle,
            stdout_at: 0,
            stderr_at: 0,
        },
        LogRange {
            from: middle,
            to: end,
            stdout_at: 40_000,
            stderr_at: 0,
        },
    ];
    (head, tail, finished)
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_result_outlast_a_store_that_fails_for_a_while() {
    let (world, org, node) = one().await;
    let (mut link, job) = node.takes(&world, &org).await;
    world
        .sql("CREATE TRIGGER broken BEFORE INSERT ON segments BEGIN SELECT RAISE(ABORT, 'broken'); END")
        .await;
    link.print(job_digest(&job), b"hello\n");
    link.say(Event::Finished(Box::new(node.finished(&job, b"hello\n", 1, 0))));
    let early = tokio::time::timeout(Duration::from_millis(500), link.acks.recv()).await;
    assert!(early.is_err(), "nothing is acknowledged: {early:?}");
    world.sql("DROP TRIGGER broken").await;
    link.ack_of_result().await;
    let (out, _) = stored(&world, &org, &JobId::from_digest(&job_digest(&job))).await;
    assert_eq!(out, b"hello\n");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_receipt_can_read_all_that_was_kept() {
    let (world, org, node) = one().await;
    let job = org.job_keeping(&node.id, &["true"], Some(1000));
    let (digest, id) = (job_digest(&job), JobId::from_digest(&job_digest(&job)));
    let (head, tail, finished) = long_log(&node, &job);
    let (log, middle) = ([head.clone(), tail.clone()].concat(), head.len() as u64);
    let open = watch::Sender::new(false);
    let gate = open.subscribe();
    let (asked, mut fetching) = watch::channel(false);
    // The log is given at once; the kept part is given only when the gate is open.
    let reading = move |_: &str, from: u64| {
        if from < middle {
            return Body::from(log[from as usize..].to_vec());
        }
        asked.send_replace(true);
        let (tail, mut gate) = (tail.clone(), gate.clone());
        Body::from_stream(futures_util::stream::once(async move {
            gate.wait_for(|open| *open).await.unwrap();
            Ok::<_, Infallible>(tail)
        }))
    };
    let mut link = node.link_reading(&world, Box::new(reading)).await;
    submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    link.say(Event::OutputWaiting { job: digest, from: 0 });
    link.say(Event::Finished(Box::new(finished)));
    // Who comes now has missed what was relayed, and the end of it is not stored yet.
    fetching.wait_for(|asked| *asked).await.unwrap();
    let path = format!("/api/v1/stream/{id}");
    let followed = read(&world, &org, Method::GET, &path, String::new());
    let mut followed = Box::pin(followed);
    let early = tokio::time::timeout(Duration::from_millis(500), followed.as_mut()).await;
    assert!(early.is_err(), "no receipt before everything is stored");
    open.send_replace(true);
    let (out, events) = followed.as_mut().await;
    drop(followed);
    assert!(matches!(events.last(), Some(StreamEvent::Receipt { .. })));
    assert_eq!(out.len(), 90_000);
    assert_eq!(stored(&world, &org, &id).await.0, out);
    link.ack_of_result().await;
    world.hub.shutdown().await;
}

/// What is read back of a log of three frames that the hub has stored whole, of which the node kept these parts.
async fn read_back(parts: &[std::ops::Range<usize>]) -> Vec<u8> {
    let (world, org, node) = one().await;
    let (mut link, job) = node.takes(&world, &org).await;
    let (digest, all) = (job_digest(&job), b"headlosttail");
    let log = [frame(b"head"), frame_at(4, b"lost"), frame_at(8, b"tail")];
    let length = log[0].len() as u64;
    let frames = Bytes::from(log.concat());
    let printed = Message::Output {
        job: digest,
        at: 0,
        frames,
    };
    link.events.send(printed).unwrap();
    let mut finished = node.finished_keeping(&job, all, parts, (1, 0));
    finished.log_end = 3 * length;
    let ranges = parts.iter().map(|part| LogRange {
        from: part.start as u64 / 4 * length,
        to: part.end as u64 / 4 * length,
        stdout_at: part.start as u64,
        stderr_at: 0,
    });
    finished.kept = ranges.collect();
    link.say(Event::Finished(Box::new(finished)));
    link.ack_of_result().await;
    let (out, events) = stored(&world, &org, &JobId::from_digest(&digest)).await;
    assert!(matches!(events.last(), Some(StreamEvent::Receipt { .. })));
    world.hub.shutdown().await;
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_receipt_does_not_cover_is_not_read_back() {
    assert_eq!(read_back(std::slice::from_ref(&(0..12))).await, b"headlosttail");
    assert_eq!(read_back(&[0..4, 8..12]).await, b"headtail");
    assert_eq!(read_back(std::slice::from_ref(&(8..12))).await, b"tail");
    assert_eq!(read_back(&[]).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_comes_beside_an_open_log_stream_changes_nothing() {
    let (world, org, node) = one().await;
    let job = org.job(&node.id, &["true"]);
    let (digest, id) = (job_digest(&job), JobId::from_digest(&job_digest(&job)));
    let (pieces, feed) = mpsc::unbounded_channel();
    let mut feed = Some(feed);
    let reading = move |_: &str, _: u64| feed.take().map_or_else(Body::empty, fed);
    let mut link = node.link_reading(&world, Box::new(reading)).await;
    submit(&world, &org, &job).await;
    assert_eq!(link.offer().await, job);
    let request = Request::get(format!("/api/v1/stream/{id}"))
        .header("accept", FRAMES)
        .header("authorization", format!("Bearer {}", org.secret));
    let client = world.client();
    let follower = client.send(request.body(full("")).unwrap(), DEADLINE).await;
    let mut follower = follower.unwrap().into_body();
    let (first, second) = (frame(b"first\n"), frame_at(6, b"second\n"));
    let half = first.len() + second.len() / 2;
    let log = [first.clone(), second].concat();
    link.say(Event::OutputWaiting { job: digest, from: 0 });
    pieces.send(log[..half].to_vec()).unwrap();
    let seen = async {
        let mut seen = Vec::new();
        while !seen.windows(6).any(|w| w == b"first\n") {
            let frame = follower.frame().await.unwrap().unwrap();
            seen.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    };
    tokio::time::timeout(DEADLINE, seen)
        .await
        .expect("the first is relayed");
    link.events
        .send(Message::Output {
            job: digest,
            at: 0,
            frames: Bytes::from(first),
        })
        .unwrap();
    // The event is taken before what follows it.
    link.say(Event::Started {
        job: digest,
        at: Timestamp::now(),
        firing: None,
    });
    let running = async {
        let mut seen = Vec::new();
        while !seen.windows(9).any(|w| w == b"\"running\"") {
            let frame = follower.frame().await.unwrap().unwrap();
            seen.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    };
    tokio::time::timeout(DEADLINE, running).await.expect("it runs");
    pieces.send(log[half..].to_vec()).unwrap();
    drop(pieces);
    let mut finished = node.finished(&job, b"", 1, 0);
    finished.log_end = log.len() as u64;
    link.say(Event::Finished(Box::new(finished)));
    link.ack_of_result().await;
    assert_eq!(stored(&world, &org, &id).await.0, b"first\nsecond\n");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_node_brings_the_tail_before_its_result_counts() {
    let (world, org, node) = one().await;
    poll::begin(&node, &org).await;
    let job = org.job_keeping(&node.id, &["true"], Some(1000));
    let id = JobId::from_digest(&job_digest(&job));
    submit(&world, &org, &job).await;
    let (head, tail, finished) = long_log(&node, &job);
    let (middle, end) = (head.len() as u64, finished.log_end);
    let log = async |place: String, bytes: Vec<u8>| {
        let path = format!("/api/v1/agent/jobs/{id}/log?{place}");
        let answer = node.call(Method::POST, &path, bytes).await;
        serde_json::from_slice::<LogStored>(&answer.body).unwrap()
    };
    let at = |upto, next| LogStored { upto, next };
    assert_eq!(log("at=0".to_owned(), head).await, at(middle, middle));
    let beyond = log(format!("at={middle}"), tail.clone()).await;
    assert_eq!(beyond, at(middle, end), "relayed, and not stored");
    let path = format!("/api/v1/agent/jobs/{id}/result");
    let result = serde_json::to_vec(&finished).unwrap();
    let answer = node.call(Method::POST, &path, result.clone()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    let kept = format!("at={middle}&stdout_at=40000&stderr_at=0");
    assert_eq!(log(kept, tail).await, at(middle, end));
    let answer = node.call(Method::POST, &path, result).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let (out, _) = stored(&world, &org, &id).await;
    assert_eq!(out, [[b'h'; 40_000].as_slice(), &[b't'; 50_000]].concat());
    world.hub.shutdown().await;
}
