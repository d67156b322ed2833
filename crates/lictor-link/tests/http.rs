//! The HTTP client: versions, deadlines, limits, kept connections.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is a failed test

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use lictor_link::cert::{Identity, generate_web};
use lictor_link::http::{HttpClient, full, streamed};
use lictor_link::hyper::{Request, Version};
use lictor_link::install_crypto_provider;
use lictor_link::tls::{Accepted, ClientTls, HubTls};
use lictor_proto::Code;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

const WITHIN: Duration = Duration::from_secs(10);

struct Server {
    client: HttpClient,
    connections: Arc<AtomicUsize>,
}

fn router() -> Router {
    let problem = r#"{"type":"t","title":"t","status":409,"code":"result_conflict","detail":"d","hint":"h","request_id":"r"}"#;
    Router::new()
        .route(
            "/version",
            get(|r: axum::extract::Request| async move { format!("{:?}", r.version()) }),
        )
        .route(
            "/length",
            post(|body: Bytes| async move { body.len().to_string() }),
        )
        .route("/never", get(std::future::pending::<()>))
        .route("/large", get(|| async { vec![0u8; 100_000] }))
        .route(
            "/problem",
            get(move || async move { (axum::http::StatusCode::CONFLICT, problem) }),
        )
        .route(
            "/endless",
            get(|| async {
                Body::from_stream(futures_util::stream::repeat(Ok::<_, std::convert::Infallible>(
                    Bytes::from_static(b"x"),
                )))
            }),
        )
}

async fn server(secure: bool) -> Server {
    install_crypto_provider();
    let web = Identity::from_pem(&generate_web(&["localhost".into()]).unwrap()).unwrap();
    let pin = web.spki().unwrap();
    let tls = HubTls::new(Identity::link(&[1; 32]).unwrap(), web).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if secure { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let (tasks, connections) = (TaskTracker::new(), Arc::new(AtomicUsize::new(0)));
    let (accepting, counter) = (tasks.clone(), connections.clone());
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let tls = tls.clone();
            accepting.spawn(async move {
                let http = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(router());
                if !secure {
                    return http.serve_connection(TokioIo::new(tcp), service).await.ok();
                }
                let Ok(Accepted::People(io)) = tls.accept(tcp, WITHIN).await else {
                    return None;
                };
                http.serve_connection(TokioIo::new(io), service).await.ok()
            });
        }
    });
    let tls = secure.then(|| ClientTls::person(vec![pin]).unwrap());
    Server {
        client: HttpClient::new(url.parse().unwrap(), tls, tasks),
        connections,
    }
}

fn get_of(path: &str) -> Request<lictor_link::http::RequestBody> {
    Request::get(path).body(full("")).unwrap()
}

#[tokio::test]
async fn requests_one_after_another_share_one_connection() {
    for secure in [true, false] {
        let server = server(secure).await;
        for _ in 0..5 {
            let answer = server.client.call(get_of("/version"), 100, WITHIN).await.unwrap();
            assert_eq!(answer.body, format!("{:?}", Version::HTTP_11));
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_stream_that_is_being_read_does_not_hold_up_other_requests() {
    for secure in [true, false] {
        let server = server(secure).await;
        let mut endless = server.client.send(get_of("/endless"), WITHIN).await.unwrap();
        assert!(endless.body_mut().frame().await.unwrap().is_ok());
        let body = streamed(futures_util::stream::iter(
            (0..10).map(|_| Ok(Bytes::from_static(b"12345"))),
        ));
        let request = Request::post("/length").body(body).unwrap();
        let answer = server.client.call(request, 100, WITHIN).await.unwrap();
        assert_eq!(answer.body, "50");
        assert!(endless.body_mut().frame().await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn deadlines_and_limits_are_kept() {
    let server = server(true).await;
    let never = server
        .client
        .call(get_of("/never"), 100, Duration::from_millis(50))
        .await;
    assert_eq!(never.unwrap_err().code(), Code::Timeout);
    assert!(
        server
            .client
            .call(get_of("/large"), 100_000, WITHIN)
            .await
            .is_ok()
    );
    let large = server.client.call(get_of("/large"), 99_999, WITHIN).await;
    assert_eq!(large.unwrap_err().code(), Code::TooLarge);
}

#[tokio::test]
async fn a_problem_comes_back_as_the_refusal_it_is() {
    let server = server(true).await;
    let answer = server
        .client
        .call(get_of("/problem"), 1000, WITHIN)
        .await
        .unwrap();
    assert_eq!(answer.json::<u8>().unwrap_err().code, Code::ResultConflict);
    let gone = HttpClient::new("http://127.0.0.1:1".parse().unwrap(), None, TaskTracker::new());
    let refused = gone.call(get_of("/"), 1, WITHIN).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}
