//! The two halves of the WebSocket handshake (RFC 6455 section 4).

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::config;
use crate::LinkError;

/// The client's half over a connection that exists: asks for `path` of `host` and becomes a WebSocket.
///
/// # Errors
/// [`LinkError::Protocol`] with the server's status when it refuses, or when its answer is none.
pub async fn connect<S>(
    io: S,
    host: &str,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<WebSocketStream<S>, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Request::builder()
        .uri(format!("ws://{host}{path}"))
        .header("host", host)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .body(())
        .map_err(|e| LinkError::Protocol(e.to_string()))?;
    for (name, value) in headers {
        request.headers_mut().insert(name.clone(), value.clone());
    }
    tokio_tungstenite::client_async_with_config(request, io, Some(config()))
        .await
        .map(|(socket, _)| socket)
        .map_err(|e| LinkError::Protocol(format!("WebSocket handshake: {e}")))
}

/// An upgrade that was answered; the socket is there once the answer has been sent.
pub struct Upgrade(OnUpgrade);

/// The server's half: the answer to send, and the socket to wait for.
///
/// Works on the request of any hyper server, axum's included, and over HTTP/1.1 only.
///
/// # Errors
/// [`LinkError::Protocol`] when the request asks for no WebSocket; answer 400.
pub fn upgrade<B>(request: &mut Request<B>) -> Result<(Response<Empty<Bytes>>, Upgrade), LinkError> {
    let headers = request.headers();
    let asks = has_token(headers, &CONNECTION, "upgrade")
        && has_token(headers, &UPGRADE, "websocket")
        && headers.get("sec-websocket-version").is_some_and(|v| v == "13");
    let key = headers.get("sec-websocket-key").filter(|k| asks && k.len() == 24);
    let Some(key) = key else {
        return Err(LinkError::Protocol(
            "not a WebSocket request of version 13".into(),
        ));
    };
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(Empty::new())
        .map_err(|e| LinkError::Protocol(e.to_string()))?;
    Ok((response, Upgrade(hyper::upgrade::on(request))))
}

impl Upgrade {
    /// Waits until the answer has been sent and gives the socket, in the server's role.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the connection broke before.
    pub async fn socket(self) -> Result<WebSocketStream<TokioIo<Upgraded>>, LinkError> {
        let io = self.0.await.map_err(|e| LinkError::Lost(Box::new(e)))?;
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(config())).await)
    }
}

/// Whether a comma-separated header names this token, whatever its case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case(token))
}
