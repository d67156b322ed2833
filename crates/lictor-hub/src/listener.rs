//! One port: TLS for nodes and for people; where it listens on loopback only, plain HTTP too.
//!
//! ```text
//!   first byte 0x16 --> TLS --ALPN lictor/1--> node, by its link key     HTTP/1.1
//!        |                  \--else----------> anybody                   HTTP/2 by ALPN h2, else HTTP/1.1
//!        \--else, and the listener is on loopback ---------------------> HTTP/1.1
//! ```
//!
//! # Invariants
//! - A connection has a deadline until it has sent its first request, and whenever it has no request open; there are
//!   at most so many connections.
//! - [`LinkKey`] is in a request exactly when its connection proved that key.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lictor_link::h2::TrackedExecutor;
use lictor_link::tls::{Accepted, HubTls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::api::LinkKey;

/// First byte and TLS handshake must be done within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The head of a request must be there within this.
    head: Duration,
    /// An HTTP/2 connection may be without a request so long after its first.
    idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(15),
            idle: Duration::from_secs(120),
        }
    }
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// `accept` failed, most likely for want of descriptors: it helps to wait for some to be closed.
const BREATHE: Duration = Duration::from_millis(100);

/// Whether plain HTTP is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Nobody but this machine can connect.
    Taken,
    /// Whoever connects may be anywhere. An address of loopback proves nothing then: a forwarder on this machine, such
    /// as a container's, shows its own.
    Refused,
}

impl Plain {
    /// What holds for a listener on this address.
    pub(crate) fn on(addr: SocketAddr) -> Self {
        if addr.ip().to_canonical().is_loopback() {
            Self::Taken
        } else {
            Self::Refused
        }
    }
}

/// What every connection needs.
pub(crate) struct Listener {
    pub(crate) tls: HubTls,
    pub(crate) plain: Plain,
    pub(crate) router: Router,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) patience: Patience,
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

    async fn dispatch(&self, stream: TcpStream) -> Ended {
        stream.set_nodelay(true)?;
        let mut first = [0; 1];
        let n = tokio::time::timeout(HANDSHAKE, stream.peek(&mut first)).await??;
        if n == 0 {
            return Ok(());
        }
        // 22: a TLS handshake record (RFC 8446 section 5.1).
        if first[0] != 22 {
            return match self.plain {
                Plain::Taken => self.http1(stream, None).await,
                Plain::Refused => Err("plain HTTP, and others than this machine can connect".into()),
            };
        }
        match self.tls.accept(stream, HANDSHAKE).await? {
            Accepted::Node { stream, link_key } => self.http1(stream, Some(LinkKey(link_key))).await,
            Accepted::People(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                self.http2(stream).await
            }
            Accepted::People(stream) => self.http1(stream, None).await,
        }
    }

    async fn http1<IO>(&self, io: IO, key: Option<LinkKey>) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let requests = Requests::default();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.patience.head)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(io), self.service(key, &requests))
            .with_upgrades();
        self.drive(connection, |c| c.graceful_shutdown(), &requests).await
    }

    async fn http2<IO>(&self, io: IO) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let requests = Requests::default();
        let connection = http2::Builder::new(TrackedExecutor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(20)))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_concurrent_streams(128)
            .serve_connection(TokioIo::new(io), self.service(None, &requests));
        self.drive(connection, |c| c.graceful_shutdown(), &requests).await
    }

    fn service(
        &self,
        key: Option<LinkKey>,
        requests: &Requests,
    ) -> impl Service<
        hyper::Request<Incoming>,
        Response = Response<Counted>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + use<> {
        let (router, requests) = (self.router.clone(), requests.clone());
        service_fn(move |mut request: hyper::Request<Incoming>| {
            if let Some(key) = key {
                request.extensions_mut().insert(key);
            }
            let open = requests.open();
            let answering = router.clone().oneshot(request.map(Body::new));
            async move { Ok(answering.await?.map(|body| Counted { body, _open: open })) }
        })
    }

    /// Runs a connection to its end, to the end of its patience, or to the hub's.
    async fn drive<C>(&self, connection: C, close: impl FnOnce(Pin<&mut C>), requests: &Requests) -> Ended
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            done = connection.as_mut() => return Ok(done?),
            () = requests.none_for(self.patience) => return Err("no request came".into()),
            () = self.stop.cancelled() => close(connection.as_mut()),
        }
        Ok(connection.await?)
    }
}

/// How many requests of a connection are open, from their head to the end of their answer.
#[derive(Clone, Default)]
struct Requests(Arc<watch::Sender<usize>>);

/// One of them.
struct Open(Requests);

impl Requests {
    fn open(&self) -> Open {
        self.0.send_modify(|n| *n += 1);
        Open(self.clone())
    }

    /// Returns when none has been open for as long as `patience` has it.
    async fn none_for(&self, patience: Patience) {
        let mut open = self.0.subscribe();
        let mut wait = patience.head;
        loop {
            // The sender lives as long as `self`: the waits end with a change or not at all.
            if tokio::time::timeout(wait, open.wait_for(|n| *n > 0))
                .await
                .is_err()
            {
                return;
            }
            let _ = open.wait_for(|n| *n == 0).await;
            wait = patience.idle;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|n| *n -= 1);
    }
}

/// The body of an answer, whose request is open until it has been sent.
struct Counted {
    body: Body,
    _open: Open,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
