//! Bytes over WebSocket messages: whole, in order, bounded.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is a failed test

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lictor_link::ws::{self, MAX_MESSAGE, Message, WebSocketStream, WsStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::protocol::Role;

type Socket = WebSocketStream<DuplexStream>;

/// Two ends of a WebSocket; the near one takes and sends messages of any size.
async fn sockets() -> (Socket, WsStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let far = WebSocketStream::from_raw_socket(far, Role::Server, Some(ws::config())).await;
    (near, WsStream::new(far))
}

async fn send(mut socket: Socket, message: Message) -> Socket {
    // A refused message may also break the sender's connection.
    let _ = socket.send(message).await;
    socket
}

#[tokio::test]
async fn bytes_come_out_as_they_went_in() {
    let (near, mut far) = sockets().await;
    let mut near = WsStream::new(near);
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut got = Vec::new();
    let writer = async {
        for piece in sent.chunks(70_001) {
            near.write_all(piece).await.unwrap();
        }
        near.flush().await.unwrap();
        near.shutdown().await.unwrap();
    };
    tokio::join!(writer, async { far.read_to_end(&mut got).await.unwrap() });
    assert!(got == sent);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let (near, mut far) = sockets().await;
    let mut got = vec![0; MAX_MESSAGE];
    let (near, read) = tokio::join!(
        send(near, Message::Binary(Bytes::from(vec![1; MAX_MESSAGE]))),
        far.read_exact(&mut got)
    );
    assert_eq!(read.unwrap(), MAX_MESSAGE);
    let too_long = send(near, Message::Binary(Bytes::from(vec![1; MAX_MESSAGE + 1])));
    let refused = async {
        let read = far.read(&mut got).await;
        drop(far); // lets the sender go
        read
    };
    let (_, read) = tokio::join!(too_long, refused);
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn text_is_refused_and_a_close_is_an_end() {
    let (near, mut far) = sockets().await;
    let (_near, read) = tokio::join!(send(near, Message::text("hello")), far.read_u8());
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::InvalidData);

    let (near, mut far) = sockets().await;
    let mut rest = Vec::new();
    let (_near, read) = tokio::join!(send(near, Message::Close(None)), far.read_to_end(&mut rest));
    assert_eq!(read.unwrap(), 0);
}

async fn answer(
    mut request: Request<Incoming>,
    got: oneshot::Sender<ws::Upgrade>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(match ws::upgrade(&mut request) {
        Ok((response, upgrade)) => {
            let _ = got.send(upgrade);
            response
        }
        Err(_) => {
            let mut no = Response::new(Empty::new());
            *no.status_mut() = StatusCode::BAD_REQUEST;
            no
        }
    })
}

#[tokio::test]
async fn both_halves_of_the_handshake_meet_over_hyper() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (tx, rx) = oneshot::channel();
    let tx = std::sync::Mutex::new(Some(tx));
    let service = service_fn(|r| answer(r, tx.lock().unwrap().take().unwrap()));
    let http = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), service)
        .with_upgrades();
    let server = async {
        let mut socket = rx.await.unwrap().socket().await.unwrap();
        let message = socket.next().await.unwrap().unwrap();
        socket.send(message).await.unwrap();
    };
    let client = async {
        let mut socket = ws::connect(near, "hub", "/api/v1/agent/link", &[]).await.unwrap();
        socket.send(Message::binary(&b"echo"[..])).await.unwrap();
        socket.next().await.unwrap().unwrap()
    };
    let (http, (), message) = tokio::join!(http, server, client);
    http.unwrap();
    assert_eq!(message, Message::binary(&b"echo"[..]));
}

#[test]
fn a_request_for_something_else_is_no_websocket() {
    let request = |version: &str, upgrade: &str| {
        Request::builder()
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", upgrade)
            .header("sec-websocket-version", version)
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap()
    };
    let (response, _) = ws::upgrade(&mut request("13", "websocket")).unwrap();
    // The example of RFC 6455 section 1.3.
    assert_eq!(
        response.headers()["sec-websocket-accept"],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert!(ws::upgrade(&mut request("8", "websocket")).is_err());
    assert!(ws::upgrade(&mut request("13", "h2c")).is_err());
    assert!(ws::upgrade(&mut Request::new(())).is_err());
}
