//! Row g: small requests on a link whose 28 output streams nobody reads, and on the same link without them.
//!
//! The link is the real one but for TLS: TCP, WebSocket, and HTTP/2 with its windows. Behind it stand two routes, a
//! log without an end and an echo.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lictor_link::h2::{self, BODY_STREAMS};
use lictor_link::hyper::Method;
use lictor_link::peer::Peer;
use lictor_link::ws::{Role, WebSocketStream, WsStream, config};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::Effort;
use crate::sample::Samples;
use crate::table::Table;

const WITHIN: Duration = Duration::from_secs(20);
const PIECE: usize = 64 * 1024;

/// Measures both, in turns.
pub(crate) async fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let tasks = TaskTracker::new();
    let (loaded, free) = (link(&tasks).await?, link(&tasks).await?);
    let mut unread = Vec::new();
    for _ in 0..BODY_STREAMS {
        unread.push(loaded.stream("/flood", WITHIN).await?);
    }
    // Round trips until the floods have filled their windows and stand still.
    for _ in 0..200 {
        once(&loaded).await?;
    }
    let (mut beside, mut alone) = (Samples::default(), Samples::default());
    for _ in 0..effort.samples {
        alone.push(once(&free).await?);
        beside.push(once(&loaded).await?);
    }
    let figure = |s: &Samples| format!("p50 {} us, p99 {} us", s.p50().as_micros(), s.p99().as_micros());
    let what = format!("256 B request on a link with {} unread streams", unread.len());
    let peer = format!("no streams: {}", figure(&alone));
    table.row("g", &what, figure(&beside), peer, "flows");
    Ok(())
}

async fn once(peer: &Peer) -> Result<Duration> {
    let started_at = Instant::now();
    peer.call(
        Method::POST,
        "/echo",
        Bytes::from_static(&[b'x'; 256]),
        1024,
        WITHIN,
    )
    .await?;
    Ok(started_at.elapsed())
}

/// The hub's end of a link to an agent with nothing but these routes.
async fn link(tasks: &TaskTracker) -> Result<Peer> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (far, near) = (far?, near?.0);
    far.set_nodelay(true)?;
    near.set_nodelay(true)?;
    let router = Router::new()
        .route("/flood", get(flood))
        .route("/echo", post(|body: Bytes| async { body }));
    let (far, near) = tokio::join!(socket(far, Role::Client), socket(near, Role::Server));
    let served = h2::server(tasks).serve_connection(TokioIo::new(far), TowerToHyperService::new(router));
    tasks.spawn(async move { drop(served.await) });
    let (peer, driver) = Peer::start(near, tasks).await.context("the link")?;
    tasks.spawn(driver);
    Ok(peer)
}

async fn socket(io: TcpStream, role: Role) -> WsStream<TcpStream> {
    WsStream::new(WebSocketStream::from_raw_socket(io, role, Some(config())).await)
}

async fn flood() -> Body {
    let piece = Bytes::from(vec![0; PIECE]);
    Body::from_stream(stream::repeat_with(move || {
        Ok::<_, std::convert::Infallible>(piece.clone())
    }))
}
