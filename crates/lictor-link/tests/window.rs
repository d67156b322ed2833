//! The connection window: readers that stall never stall their neighbours.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is a failed test

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::Full;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lictor_link::h2::{self, BODY_STREAMS, CONNECTION_WINDOW, STREAM_WINDOW, UPLOADS};
use lictor_link::peer::Peer;
use lictor_link::ws::{self, WebSocketStream, WsStream};
use lictor_link::{LinkError, hyper};
use tokio::io::DuplexStream;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::TaskTracker;

const WITHIN: Duration = Duration::from_secs(20);
const PIECE: usize = 64 * 1024;

/// How much each flood has given away so far.
#[derive(Default)]
struct Given {
    bytes: AtomicUsize,
    more: Notify,
}

async fn flood(State(given): State<Arc<Given>>) -> Body {
    let piece = Bytes::from(vec![0; PIECE]);
    Body::from_stream(stream::repeat_with(move || {
        given.bytes.fetch_add(PIECE, Ordering::Relaxed);
        given.more.notify_waiters();
        Ok::<_, std::convert::Infallible>(piece.clone())
    }))
}

async fn echo(body: Bytes) -> Bytes {
    body
}

async fn socket(io: DuplexStream, role: Role) -> WsStream<DuplexStream> {
    WsStream::new(WebSocketStream::from_raw_socket(io, role, Some(ws::config())).await)
}

/// An agent as in production, but for its routes; the hub's end of its link.
async fn agent(given: Arc<Given>, tasks: &TaskTracker) -> WsStream<DuplexStream> {
    let router = Router::new()
        .route("/flood", get(flood))
        .route("/echo", post(echo))
        .route("/hold", post(hold))
        .with_state(given);
    let (near, far) = tokio::io::duplex(256 * 1024);
    let io = TokioIo::new(socket(far, Role::Client).await);
    let serving = h2::server(tasks).serve_connection(io, TowerToHyperService::new(router));
    tasks.spawn(async move { serving.await.ok() });
    socket(near, Role::Server).await
}

impl Given {
    async fn reaches(&self, bytes: usize) {
        let reached = async {
            loop {
                let more = self.more.notified();
                if self.bytes.load(Ordering::Relaxed) >= bytes {
                    return;
                }
                more.await;
            }
        };
        tokio::time::timeout(WITHIN, reached)
            .await
            .expect("the streams fill their windows");
    }
}

#[tokio::test]
async fn a_post_flows_beside_as_many_unread_streams_as_the_link_allows() {
    let (tasks, given) = (TaskTracker::new(), Arc::new(Given::default()));
    let (peer, driver) = Peer::start(agent(given.clone(), &tasks).await, &tasks)
        .await
        .unwrap();
    tasks.spawn(driver);

    let mut unread = Vec::new();
    for _ in 0..BODY_STREAMS {
        unread.push(peer.stream("/flood", WITHIN).await.unwrap());
    }
    given.reaches(BODY_STREAMS * STREAM_WINDOW as usize).await;

    let post = || peer.call(Method::POST, "/echo", Bytes::from_static(b"small"), 100, WITHIN);
    assert_eq!(post().await.unwrap().body, "small");

    // One more has to wait for a slot, and a dropped body gives its own back.
    let full = peer.stream("/flood", Duration::from_millis(100)).await;
    assert!(matches!(full, Err(LinkError::Timeout(_))));
    unread.pop();
    unread.push(peer.stream("/flood", WITHIN).await.unwrap());
    assert_eq!(post().await.unwrap().body, "small");
}

/// A route that never reads its body, but says that one came.
async fn hold(State(given): State<Arc<Given>>, body: Body) {
    given.bytes.fetch_add(1, Ordering::Relaxed);
    given.more.notify_waiters();
    std::future::pending::<()>().await;
    drop(body);
}

#[tokio::test]
async fn a_post_flows_beside_as_many_unread_uploads_as_the_hub_sends() {
    let (tasks, given) = (TaskTracker::new(), Arc::new(Given::default()));
    let (peer, driver) = Peer::start(agent(given.clone(), &tasks).await, &tasks)
        .await
        .unwrap();
    tasks.spawn(driver);
    let piece = Bytes::from(vec![0; 2 * STREAM_WINDOW as usize]);
    for _ in 0..UPLOADS {
        let (peer, piece) = (peer.clone(), piece.clone());
        tasks.spawn(async move { peer.call(Method::POST, "/hold", piece, 100, WITHIN).await.ok() });
    }
    given.reaches(UPLOADS).await;
    let answer = peer.call(Method::POST, "/echo", Bytes::from_static(b"small"), 100, WITHIN);
    assert_eq!(answer.await.unwrap().body, "small");
}

/// Why the rule is there: without it the link is dead, and this is what the test above would see.
#[tokio::test]
async fn one_stream_too_many_blocks_everything() {
    let (tasks, given) = (TaskTracker::new(), Arc::new(Given::default()));
    let io = TokioIo::new(agent(given.clone(), &tasks).await);
    let (mut sender, driver) = h2::client(&tasks).handshake(io).await.unwrap();
    tasks.spawn(async move { driver.await.ok() });
    let streams = CONNECTION_WINDOW / STREAM_WINDOW;
    let mut unread = Vec::new();
    for _ in 0..streams {
        let request = Request::get("http://agent/flood")
            .body(Full::new(Bytes::new()))
            .unwrap();
        unread.push(sender.send_request(request).await.unwrap());
    }
    given.reaches(CONNECTION_WINDOW as usize).await;
    let post = Request::post("http://agent/echo")
        .body(Full::from("small"))
        .unwrap();
    let answer = async {
        let response = sender.send_request(post).await.unwrap();
        lictor_link::http::collect(response.into_body(), 100).await
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(2), answer)
            .await
            .is_err()
    );
    assert_eq!(unread.len(), streams as usize);
}
