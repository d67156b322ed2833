//! The asking side of a link (the hub's): small calls with a deadline and a limit, and streams behind a semaphore.
//!
//! # Invariants
//! - At most [`BODY_STREAMS`] streams with an unbounded body live at once, whoever opens them; a body holds its
//!   slot until it is dropped. Everything else on the link therefore always has window left.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::LinkError;
use crate::h2::{self, BODY_STREAMS};
use crate::http::Answer;

/// Why a body that is sent ends before its time.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What a request carries.
type Outgoing = UnsyncBoxBody<Bytes, Broken>;

/// A link, as its asking side holds it. Cheap to clone.
#[derive(Clone)]
pub struct Peer {
    sender: SendRequest<Outgoing>,
    slots: Arc<Semaphore>,
    /// How many wait for a slot.
    waiting: Arc<AtomicUsize>,
}

/// Runs a link's connection; ends when the link is gone, with the reason.
pub type Driver = Pin<Box<dyn Future<Output = Result<(), LinkError>> + Send>>;

/// A response body that holds one of the link's slots until it is dropped.
pub struct SlottedBody {
    body: Incoming,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Peer {
    /// Speaks HTTP/2 over `io`. The second value drives the connection and ends with it; who polls it knows when
    /// the link is gone.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the other side speaks no HTTP/2.
    pub async fn start<IO>(io: IO, tasks: &TaskTracker) -> Result<(Self, Driver), LinkError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = h2::client(tasks)
            .handshake(TokioIo::new(io))
            .await
            .map_err(lost)?;
        let peer = Self {
            sender,
            slots: Arc::new(Semaphore::new(BODY_STREAMS)),
            waiting: Arc::new(AtomicUsize::new(0)),
        };
        Ok((peer, Box::pin(async move { connection.await.map_err(lost) })))
    }

    /// One request, one bounded answer, all within `deadline`.
    ///
    /// # Errors
    /// [`LinkError::Timeout`], [`LinkError::TooLarge`] or [`LinkError::Lost`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: usize,
        deadline: Duration,
    ) -> Result<Answer, LinkError> {
        let work = async {
            let response = self.send(method, path, full(body)).await?;
            Answer::collect(response, limit).await
        };
        tokio::time::timeout(deadline, work)
            .await
            .map_err(|_| LinkError::Timeout(deadline))?
    }

    /// One request with a body of any length, which says it, and one bounded answer; it may come before all of the
    /// body has gone. There is no deadline here: who makes the body knows whether it moves. At most
    /// [`crate::h2::UPLOADS`] may be under way.
    ///
    /// # Errors
    /// [`LinkError::TooLarge`] or [`LinkError::Lost`].
    pub async fn upload<B>(&self, path: &str, body: B, limit: usize) -> Result<Answer, LinkError>
    where
        B: Body<Data = Bytes, Error = Broken> + Send + 'static,
    {
        let response = self.send(Method::POST, path, body.boxed_unsync()).await?;
        Answer::collect(response, limit).await
    }

    /// Whether the link lives, as an application sees it: a request whose answer has a body. Pings cannot tell,
    /// see [`crate::h2`].
    ///
    /// # Errors
    /// As [`Peer::call`]; or [`LinkError::Protocol`] for any status but 200.
    pub async fn probe(&self, deadline: Duration) -> Result<(), LinkError> {
        let answer = self
            .call(Method::GET, "/v1/health", Bytes::new(), 4096, deadline)
            .await?;
        match answer.status {
            StatusCode::OK if !answer.body.is_empty() => Ok(()),
            status => Err(LinkError::Protocol(format!("health answered {status}"))),
        }
    }

    /// Opens an unbounded body, waiting for one of the link's slots; `deadline` covers slot and headers.
    ///
    /// # Errors
    /// As [`Peer::call`]; or [`LinkError::Protocol`] for any status but 200.
    pub async fn stream(&self, path: &str, deadline: Duration) -> Result<SlottedBody, LinkError> {
        let work = async {
            let slot = self.slot().await?;
            self.open(path, Some(slot)).await
        };
        tokio::time::timeout(deadline, work)
            .await
            .map_err(|_| LinkError::Timeout(deadline))?
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, LinkError> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(slot);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        let slot = self.slots.clone().acquire_owned().await;
        slot.map_err(|e| LinkError::Lost(Box::new(e)))
    }

    /// Whether somebody waits for a slot: then whoever holds one for long should give it back.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Opens the one stream that is always open and always read: the agent's events, what is fired by schedules among
    /// them. It takes no slot, and its window comes out of the 4 MiB that the slots leave.
    ///
    /// # Errors
    /// As [`Peer::stream`].
    pub async fn events(&self, deadline: Duration) -> Result<SlottedBody, LinkError> {
        tokio::time::timeout(deadline, self.open("/v1/events?firings=true", None))
            .await
            .map_err(|_| LinkError::Timeout(deadline))?
    }

    /// Whether the connection is known to be gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    async fn open(&self, path: &str, slot: Option<OwnedSemaphorePermit>) -> Result<SlottedBody, LinkError> {
        let response = self.send(Method::GET, path, full(Bytes::new())).await?;
        match response.status() {
            StatusCode::OK => Ok(SlottedBody {
                body: response.into_body(),
                _slot: slot,
            }),
            status => Err(LinkError::Protocol(format!("{path} answered {status}"))),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Outgoing,
    ) -> Result<Response<Incoming>, LinkError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://agent{path}"))
            .body(body)
            .map_err(|e| LinkError::Protocol(e.to_string()))?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(lost)?;
        sender.send_request(request).await.map_err(lost)
    }
}

fn full(body: Bytes) -> Outgoing {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// Counted as waiting until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Body for SlottedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn lost(e: hyper::Error) -> LinkError {
    LinkError::Lost(Box::new(e))
}
