//! Poll mode against a hub that answers like the real one: orders, logs with offsets, results until acknowledged.

#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is a failed test

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use lictor_agent::config::Transport;
use lictor_agent::run::serve;
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Ack, Event, Finished, Heartbeat, LogRange, Offer, OfferReply, Reply, Request};
use lictor_proto::api::{LogStored, PollAnswer, PollOrder, PollOrders, ResultStored};
use lictor_proto::{Digest, JobId, Timestamp};
use lictor_trust::SecretKey;
use serde::Deserialize;
use support::{Scripted, WITHIN, heartbeat, hub};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// What the hub has got.
#[derive(Default, Clone)]
struct Got {
    beats: usize,
    answers: Vec<PollAnswer>,
    started: Vec<String>,
    log: Vec<u8>,
    kept: Vec<u8>,
    results: usize,
}

struct Hub {
    got: watch::Sender<Got>,
    orders: Mutex<Vec<PollOrder>>,
    /// Requests to answer with 503 before any succeeds.
    failing: Mutex<usize>,
    /// Whether the answer to the first report of a start breaks off, and with it the connection.
    breaking: Mutex<bool>,
}

type Shared = State<Arc<Hub>>;

async fn next(State(hub): Shared) -> Json<PollOrders> {
    let orders = std::mem::take(&mut *hub.orders.lock().unwrap());
    if orders.is_empty() {
        std::future::pending::<()>().await;
    }
    Json(PollOrders { orders })
}

#[derive(Deserialize)]
struct At {
    at: u64,
    stdout_at: Option<u64>,
}

async fn log(
    State(hub): Shared,
    Query(At { at, stdout_at }): Query<At>,
    body: Bytes,
) -> Result<Json<LogStored>, StatusCode> {
    let mut failing = hub.failing.lock().unwrap();
    if *failing > 0 {
        *failing -= 1;
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    if stdout_at.is_some() {
        hub.got.send_modify(|got| got.kept.extend_from_slice(&body));
        let next = at + body.len() as u64;
        return Ok(Json(LogStored { upto: 3, next }));
    }
    hub.got.send_modify(|got| {
        assert_eq!(at, got.log.len() as u64, "no gap and no repeat");
        got.log.extend_from_slice(&body);
    });
    let next = hub.got.borrow().log.len() as u64;
    // No more than the first piece is stored as it comes.
    Ok(Json(LogStored { upto: 3, next }))
}

async fn result(State(hub): Shared, Json(finished): Json<Finished>) -> Json<ResultStored> {
    hub.got.send_modify(|got| got.results += 1);
    Json(ResultStored {
        receipt: Digest::of(finished.receipt.as_bytes()),
    })
}

/// Tells of a start; the answer may break off.
async fn started(State(hub): Shared, Path(id): Path<String>) -> Response {
    hub.got.send_modify(|got| got.started.push(id));
    if std::mem::take(&mut *hub.breaking.lock().unwrap()) {
        let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("broken"))]);
        return Body::from_stream(broken).into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

fn router(hub: Arc<Hub>) -> Router {
    let beat = |State(hub): Shared, Json(_): Json<Heartbeat>| async move {
        hub.got.send_modify(|got| got.beats += 1);
        StatusCode::NO_CONTENT
    };
    let answers = |State(hub): Shared, Json(answer): Json<PollAnswer>| async move {
        hub.got.send_modify(|got| got.answers.push(answer));
        StatusCode::NO_CONTENT
    };
    Router::new()
        .route("/api/v1/agent/heartbeat", post(beat))
        .route("/api/v1/agent/jobs/next", get(next))
        .route("/api/v1/agent/answers", post(answers))
        .route("/api/v1/agent/jobs/{id}/started", post(started))
        .route("/api/v1/agent/jobs/{id}/log", post(log))
        .route("/api/v1/agent/jobs/{id}/result", post(result))
        .with_state(hub)
}

fn range(from: u64, to: u64) -> LogRange {
    LogRange {
        from,
        to,
        stdout_at: from,
        stderr_at: 0,
    }
}

#[tokio::test]
async fn a_job_goes_through_although_the_hub_fails_now_and_then() {
    let job = Digest::of(b"job");
    let offer = Request::Offer(Offer {
        job: "{}".into(),
        approvals: Vec::new(),
        releases: Vec::new(),
        secrets: Vec::new(),
    });
    let orders = [offer, Request::Drain { grace_ms: 0 }];
    let orders = orders
        .into_iter()
        .zip(1..)
        .map(|(request, order)| PollOrder { order, request });
    let state = Arc::new(Hub {
        got: watch::Sender::new(Got::default()),
        orders: Mutex::new(orders.collect()),
        failing: Mutex::new(2),
        breaking: Mutex::default(),
    });
    let hub = hub(router(state.clone())).await;

    let warden = Scripted::default();
    warden.prints(job, &[b"one", b"two", b"three"]);
    warden.says(heartbeat());
    warden.says(Message::Event(Event::Started {
        job,
        at: Timestamp::now(),
        firing: None,
    }));
    warden.says(Message::Event(Event::Finished(Box::new(Finished {
        job,
        envelope: "{}".into(),
        receipt: "{}".into(),
        log_end: 11,
        kept: vec![range(0, 3), range(6, 11)],
    }))));

    let dialled = hub.file.open(&SecretKey::from_seed(&[5; 32])).unwrap();
    let (tasks, port) = (TaskTracker::new(), Arc::new(warden.clone()));
    tasks.spawn(serve(
        port,
        dialled,
        Transport::Poll,
        Duration::ZERO,
        std::future::pending(),
    ));

    let receipt = Digest::of(b"{}");
    let acked = Request::Ack(Ack::Result { job, receipt });
    warden.asked(|asked| asked.contains(&acked)).await;
    let mut got = state.got.subscribe();
    let answered = got.wait_for(|got| got.answers.len() == 2);
    let got = tokio::time::timeout(WITHIN, answered)
        .await
        .unwrap()
        .unwrap()
        .clone();

    assert_eq!(got.log, b"onetwothree");
    assert_eq!(
        got.kept, b"three",
        "what is kept here and not stored there is sent before the result"
    );
    let beyond = |r: &Request| matches!(r, Request::Ack(Ack::Output { upto, .. }) if *upto > 3);
    assert!(
        !warden.all_asked().iter().any(beyond),
        "only what is stored is acknowledged"
    );
    assert_eq!(got.started, [JobId::from_digest(&job).to_string()]);
    assert_eq!((got.beats, got.results), (1, 1));
    assert!(matches!(got.answers[0].reply, Reply::Offer(OfferReply::Accepted)));
    // What only the machine itself may ask is refused here as it is on the link.
    assert!(matches!(got.answers[1].reply, Reply::Refused(_)));
    let drained = warden
        .all_asked()
        .iter()
        .any(|r| matches!(r, Request::Drain { .. }));
    assert!(!drained);
}

#[tokio::test]
async fn orders_in_hand_are_answered_although_a_report_failed() {
    let job = Digest::of(b"job");
    let order = |order| PollOrder {
        order,
        request: Request::Offer(Offer {
            job: "{}".into(),
            approvals: Vec::new(),
            releases: Vec::new(),
            secrets: Vec::new(),
        }),
    };
    let state = Arc::new(Hub {
        got: watch::Sender::new(Got::default()),
        orders: Mutex::new(vec![order(1), order(2)]),
        failing: Mutex::default(),
        breaking: Mutex::new(true),
    });
    let slow = state.clone();
    // The first answer is taken only when the report has failed and, if the agent gave up, a new session has begun.
    let answers = move |Json(answer): Json<PollAnswer>| async move {
        let mut got = slow.got.subscribe();
        got.wait_for(|got| !got.started.is_empty()).await.unwrap();
        let anew = got.wait_for(|got| got.beats > 1);
        let _ = tokio::time::timeout(Duration::from_millis(500), anew).await;
        slow.got.send_modify(|got| got.answers.push(answer));
        StatusCode::NO_CONTENT
    };
    let answers = Router::new().route("/api/v1/agent/answers", post(answers));
    let hub = hub(answers.fallback_service(router(state.clone()))).await;
    let warden = Scripted::default();
    warden.prints(job, &[]);
    warden.says(heartbeat());
    let dialled = hub.file.open(&SecretKey::from_seed(&[5; 32])).unwrap();
    TaskTracker::new().spawn(serve(
        Arc::new(warden.clone()),
        dialled,
        Transport::Poll,
        Duration::ZERO,
        std::future::pending(),
    ));
    warden
        .asked(|asked| asked.iter().any(|r| matches!(r, Request::Offer(_))))
        .await;
    warden.says(Message::Event(Event::Started {
        job,
        at: Timestamp::now(),
        firing: None,
    }));
    let mut got = state.got.subscribe();
    let answered = got.wait_for(|got| got.answers.len() == 2);
    let got = tokio::time::timeout(WITHIN, answered)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!([got.answers[0].order, got.answers[1].order], [1, 2]);
    assert_eq!(got.beats, 1, "both in the session that the report broke");
}
