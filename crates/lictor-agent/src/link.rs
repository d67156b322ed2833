//! The link: a WebSocket that the agent dials, and inside it the agent's own HTTP/2 server.
//!
//! TCP, TLS to the pinned key, WebSocket, then the roles turn round: the hub asks and the agent serves, so that
//! one connection from inside a closed network carries everything. A peer that vanished without a word is found
//! by HTTP/2 pings on both sides within 20 s ([`lictor_link::h2`]).

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lictor_link::dial::dial;
use lictor_link::ws::{self, WsStream};
use lictor_link::{LinkError, h2};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hub::Hub;

/// Where the hub takes links.
pub const PATH: &str = "/api/v1/agent/link";
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long streams may take to end once the link is to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Dials the hub and serves `router` until the connection ends or `stop` does.
///
/// # Errors
/// [`LinkError`]: no connection, a key that isn't pinned, a hub that refuses, a connection that broke.
pub async fn hold(
    hub: &Hub,
    router: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), LinkError> {
    let connecting = tokio::time::timeout(CONNECT_WITHIN, connect(hub));
    let io = tokio::select! {
        io = connecting => io.map_err(|_| LinkError::Timeout(CONNECT_WITHIN))??,
        () = stop.cancelled() => return Ok(()),
    };
    tracing::info!(hub = %hub.url, "link is up");
    serve(io, router, tasks, stop).await
}

async fn connect(hub: &Hub) -> Result<WsStream<impl AsyncRead + AsyncWrite + use<>>, LinkError> {
    let io = dial(&hub.url, Some(&hub.tls), CONNECT_WITHIN).await?;
    let socket = ws::connect(io, &hub.url.authority(), PATH, &[]).await?;
    Ok(WsStream::new(socket))
}

/// Serves `router` over HTTP/2 on a byte stream until that ends, or gracefully until `stop`.
///
/// # Errors
/// [`LinkError::Lost`] when the connection breaks.
pub async fn serve<IO>(
    io: IO,
    router: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), LinkError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let serving = h2::server(tasks).serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => return ended.map_err(|e| LinkError::Lost(Box::new(e))),
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    // The event stream ends with `stop`; a log that is being read may not, and is cut off: it is in the spool.
    if let Ok(Err(e)) = tokio::time::timeout(CLOSE_WITHIN, serving).await {
        tracing::debug!(error = %e, "link did not close in order");
    }
    Ok(())
}
