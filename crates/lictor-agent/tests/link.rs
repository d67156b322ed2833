//! The agent over its link, as a hub meets it: real TLS, WebSocket and HTTP/2 settings, a scripted warden.

#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is a failed test

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use lictor_agent::config::Transport;
use lictor_agent::routes::{self, Authority, ROUTES, Route, authority};
use lictor_agent::run::serve;
use lictor_link::hyper::{Method, StatusCode};
use lictor_link::peer::Peer;
use lictor_link::ws::{WsStream, upgrade};
use lictor_proto::agent::stream::{Decoder, Message};
use lictor_proto::agent::{
    Ack, CancelJob, Event, LawDocs, Offer, OfferReply, ReadOutput, Reply, Request, StdinPiece,
};
use lictor_proto::api::Problem;
use lictor_proto::{Code, Digest, Timestamp, json, limits};
use lictor_trust::SecretKey;
use support::{Scripted, WITHIN, heartbeat, hub};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// A hub that gives the test its side of every link.
async fn linked_hub() -> (support::TestHub, mpsc::Receiver<Peer>) {
    let (links, taken) = mpsc::channel(4);
    let tasks = TaskTracker::new();
    let take = move |mut request: HttpRequest| {
        let (links, tasks) = (links.clone(), tasks.clone());
        async move {
            let (response, socket) = upgrade(&mut request).unwrap();
            tasks.clone().spawn(async move {
                let io = WsStream::new(socket.socket().await.unwrap());
                let (peer, driver) = Peer::start(io, &tasks).await.unwrap();
                tasks.spawn(driver);
                let _ = links.send(peer).await;
            });
            response.map(|_| Body::empty())
        }
    };
    (
        hub(Router::new().route("/api/v1/agent/link", get(take))).await,
        taken,
    )
}

struct Agent {
    warden: Scripted,
    peers: mpsc::Receiver<Peer>,
    hub: support::TestHub,
    stop: Option<oneshot::Sender<()>>,
    tasks: TaskTracker,
}

async fn agent() -> Agent {
    let (hub, peers) = linked_hub().await;
    let warden = Scripted::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let dialled = hub.file.open(&SecretKey::from_seed(&[5; 32])).unwrap();
    let (tasks, port) = (TaskTracker::new(), Arc::new(warden.clone()));
    tasks.spawn(async move {
        let stopped = async { drop(stopped.await) };
        serve(port, dialled, Transport::Link, Duration::from_secs(1), stopped).await;
    });
    Agent {
        warden,
        peers,
        hub,
        stop: Some(stop),
        tasks,
    }
}

impl Agent {
    async fn link(&mut self) -> Peer {
        let peer = tokio::time::timeout(WITHIN, self.peers.recv()).await;
        peer.expect("the agent connects").unwrap()
    }
}

async fn ask(peer: &Peer, request: &Request) -> Reply {
    let body = json::to_vec(request).unwrap();
    let answer = peer
        .call(Method::POST, "/v1/ask", body.into(), limits::ASK, WITHIN)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    json::from_slice(&answer.body).unwrap()
}

fn every_request() -> Vec<Request> {
    let job = Digest::of(b"job");
    vec![
        Request::Offer(Offer {
            job: "{}".into(),
            approvals: Vec::new(),
            releases: Vec::new(),
            secrets: Vec::new(),
        }),
        Request::Stdin(StdinPiece {
            sha256: job,
            at: 0,
            last: true,
            bytes: b"in".to_vec(),
        }),
        Request::Law(LawDocs::default()),
        Request::Approval("{}".into()),
        Request::Cancel("{}".into()),
        Request::CancelJob(CancelJob {
            cancel: "{}".into(),
            job: "{}".into(),
        }),
        Request::Ack(Ack::Output { job, upto: 0 }),
        Request::ReadOutput(ReadOutput {
            job,
            from: 0,
            max: 1,
            wait: false,
        }),
        Request::Status,
        Request::Drain { grace_ms: 1 },
    ]
}

#[tokio::test]
async fn a_hub_may_ask_what_is_on_the_list_and_nothing_else() {
    let mut agent = agent().await;
    let peer = agent.link().await;
    peer.probe(WITHIN).await.unwrap();
    for request in every_request() {
        let before = agent.warden.all_asked().len();
        let reply = ask(&peer, &request).await;
        let reached = agent.warden.all_asked().len() > before;
        let local = authority(&request) == Authority::Local;
        assert_eq!(reached, !local, "{request:?}");
        assert_eq!(matches!(reply, Reply::Refused(_)), local, "{request:?}");
    }
    assert!(matches!(
        ask(&peer, &every_request()[0]).await,
        Reply::Offer(OfferReply::Accepted)
    ));
}

/// The closed list of routes. Two take a body at all: what is asked, and bytes of an input, which a signed digest must
/// match. A new one has to be argued for here.
#[test]
fn the_routes_are_these_and_only_two_take_a_body() {
    let bodies: Vec<_> = ROUTES.iter().filter(|(method, ..)| *method != "GET").collect();
    let ask = ("POST", "/v1/ask", Route::Ask);
    assert_eq!(bodies, [&ask, &("POST", "/v1/input/{sha256}", Route::Input)]);
    assert_eq!(ROUTES.len(), 5);
}

#[tokio::test]
async fn other_methods_paths_and_bodies_are_refused() {
    let mut agent = agent().await;
    let peer = agent.link().await;
    let call = |method, path: &'static str, body: Bytes| peer.call(method, path, body, 64 * 1024, WITHIN);
    for (method, path) in [
        (Method::POST, "/v1/events"),
        (Method::DELETE, "/v1/ask"),
        (Method::PUT, "/v1/health"),
    ] {
        let answer = call(method, path, Bytes::new()).await.unwrap();
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(
        call(Method::GET, "/v1/exec", Bytes::new()).await.unwrap().status,
        StatusCode::NOT_FOUND
    );
    for junk in ["", "{", r#"{"exec":["sh"]}"#, r#""status" "status""#] {
        let answer = call(Method::POST, "/v1/ask", Bytes::from_static(junk.as_bytes()))
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{junk}");
        assert_eq!(
            json::from_slice::<Problem>(&answer.body).unwrap().code,
            Code::BadRequest
        );
    }
    let large = Bytes::from(vec![b' '; limits::ASK + 1]);
    assert_eq!(
        call(Method::POST, "/v1/ask", large).await.unwrap().status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    for path in ["/v1/input/nonsense", "/v1/input/sha256:00?from=0"] {
        let answer = call(Method::POST, path, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let input = format!("/v1/input/{}?from=", Digest::of(b"x"));
    for from in [limits::ARTIFACT, u64::MAX] {
        let body = Bytes::from_static(b"x");
        let answer = peer
            .call(Method::POST, &format!("{input}{from}"), body, 64 * 1024, WITHIN)
            .await;
        assert_eq!(answer.unwrap().status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert!(agent.warden.all_asked().is_empty());
    for path in ["/v1/output/nonsense", "/v1/output/sha256:00?from=0"] {
        assert_eq!(
            call(Method::GET, path, Bytes::new()).await.unwrap().status,
            StatusCode::BAD_REQUEST
        );
    }
}

#[tokio::test]
async fn events_arrive_in_order_and_again_on_a_new_link() {
    let mut agent = agent().await;
    agent.warden.says(heartbeat());
    for i in 0..100u8 {
        let job = Digest::of(&[i]);
        agent.warden.says(Message::Event(Event::Started {
            job,
            at: Timestamp::from_millis(1),
            firing: None,
        }));
    }
    for _ in 0..2 {
        let peer = agent.link().await;
        let mut body = peer.events(WITHIN).await.unwrap();
        let (mut decoder, mut got) = (Decoder::default(), Vec::new());
        while got.len() < 101 {
            let frame = tokio::time::timeout(WITHIN, body.frame())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            decoder.push(&frame.into_data().unwrap());
            while let Some(message) = decoder.next_message().unwrap() {
                got.push(message);
            }
        }
        assert!(matches!(&got[0], Message::Event(Event::Heartbeat(_))));
        let last = Digest::of(&[99]);
        assert!(matches!(&got[100], Message::Event(Event::Started { job, .. }) if *job == last));
        drop((peer, body)); // the hub goes away, and the agent comes back by itself
    }
    assert_eq!(agent.hub.link_keys.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_fired_is_told_to_a_hub_that_asks_for_it_and_to_no_other() {
    let mut agent = agent().await;
    agent.warden.says(Message::Event(Event::Started {
        job: Digest::of(b"firing"),
        at: Timestamp::from_millis(1),
        firing: Some("what it is".to_owned()),
    }));
    let peer = agent.link().await;
    for (path, told) in [("/v1/events?firings=true", true), ("/v1/events", false)] {
        let mut body = peer.stream(path, WITHIN).await.unwrap();
        let mut decoder = Decoder::default();
        let message = loop {
            if let Some(message) = decoder.next_message().unwrap() {
                break message;
            }
            let frame = tokio::time::timeout(WITHIN, body.frame()).await.unwrap();
            decoder.push(&frame.unwrap().unwrap().into_data().unwrap());
        };
        assert!(
            matches!(&message, Message::Event(Event::Started { firing, .. }) if firing.is_some() == told),
            "{path}: {message:?}"
        );
    }
}

#[tokio::test]
async fn output_is_read_from_any_position_to_its_end() {
    let mut agent = agent().await;
    let job = Digest::of(b"job");
    agent.warden.prints(job, &[b"one", b"two", b"three"]);
    let peer = agent.link().await;
    for (from, rest) in [(0, "onetwothree"), (3, "twothree"), (11, "")] {
        let body = peer
            .stream(&format!("/v1/output/{job}?from={from}"), WITHIN)
            .await
            .unwrap();
        let all = tokio::time::timeout(WITHIN, body.collect())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(all.to_bytes(), rest);
    }
    let unknown = Digest::of(b"unknown");
    let path = format!("/v1/output/{unknown}");
    let answer = peer
        .call(Method::GET, &path, Bytes::new(), 4096, WITHIN)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_stop_drains_the_warden_and_ends() {
    let mut agent = agent().await;
    let _peer = agent.link().await;
    agent.stop.take().unwrap().send(()).unwrap();
    agent
        .warden
        .asked(|asked| asked.contains(&Request::Drain { grace_ms: 1000 }))
        .await;
    agent.tasks.close();
    tokio::time::timeout(WITHIN, agent.tasks.wait())
        .await
        .expect("the agent ends");
}

#[tokio::test]
async fn a_hub_with_another_key_gets_no_link() {
    let mut agent = agent().await;
    let _works = agent.link().await;
    let mut file = agent.hub.file.clone();
    file.pins = vec![Digest::of(b"another key")];
    let dialled = file.open(&SecretKey::from_seed(&[5; 32])).unwrap();
    let router = routes::router(Arc::new(agent.warden.clone()), Default::default());
    let held = lictor_agent::link::hold(&dialled, router, &agent.tasks, &Default::default()).await;
    assert_eq!(held.unwrap_err().code(), Code::HubPin);
}
