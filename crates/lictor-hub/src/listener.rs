//! One port: TLS for nodes and for people, plain HTTP for loopback.
//!
//! ```text
//!   first byte 0x16 --> TLS --ALPN lictor/1--> node, by its link key     HTTP/1.1
//!        |                  \--else----------> anybody                   HTTP/2 or HTTP/1.1
//!        \--else, and the client is on loopback -----------------------> HTTP/1.1
//! ```
//!
//! # Invariants
//! - A connection has a deadline until it has sent its first request; there are at most so many connections.
//! - [`LinkKey`] is in a request exactly when its connection proved that key.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lictor_link::h2::TrackedExecutor;
use lictor_link::tls::{Accepted, HubTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::api::LinkKey;

/// First byte and TLS handshake must be done within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request must be there within this.
const HEAD: Duration = Duration::from_secs(15);
/// `accept` failed, most likely for want of descriptors: it helps to wait for some to be closed.
const BREATHE: Duration = Duration::from_millis(100);

/// What every connection needs.
pub(crate) struct Listener {
    pub(crate) tls: HubTls,
    pub(crate) router: Router,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Listener {
    /// Accepts until `stop`.
    pub(crate) async fn serve(self, tcp: TcpListener, max_connections: usize) {
        let this = Arc::new(self);
        let slots = Arc::new(Semaphore::new(max_connections));
        let stop = this.stop.clone();
        let accepting = async {
            while let Ok(slot) = slots.clone().acquire_owned().await {
                match tcp.accept().await {
                    Ok((stream, _)) => {
                        let this = this.clone();
                        this.tasks.clone().spawn(async move {
                            let _slot = slot;
                            this.connection(stream).await;
                        });
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "accept");
                        tokio::time::sleep(BREATHE).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(accepting).await;
    }

    async fn connection(&self, stream: TcpStream) {
        if let Err(e) = self.dispatch(stream).await {
            tracing::debug!(error = %e, "a connection ended");
        }
    }

    async fn dispatch(&self, stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let mut first = [0; 1];
        let n = tokio::time::timeout(HANDSHAKE, stream.peek(&mut first)).await??;
        if n == 0 {
            return Ok(());
        }
        // 22: a TLS handshake record (RFC 8446 section 5.1).
        if first[0] != 22 {
            if stream.peer_addr()?.ip().to_canonical().is_loopback() {
                return self.http(stream, None).await;
            }
            return Err("plain HTTP from another machine".into());
        }
        match self.tls.accept(stream, HANDSHAKE).await? {
            Accepted::Node { stream, link_key } => self.http(stream, Some(LinkKey(link_key))).await,
            Accepted::People(stream) => self.http(stream, None).await,
        }
    }

    async fn http<IO>(
        &self,
        io: IO,
        key: Option<LinkKey>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            if let Some(key) = key {
                request.extensions_mut().insert(key);
            }
            router.clone().oneshot(request.map(Body::new))
        });
        let mut builder = auto::Builder::new(TrackedExecutor(self.tasks.clone()));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(64 * 1024)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_concurrent_streams(128);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            done = connection.as_mut() => return done,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}
