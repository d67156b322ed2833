//! A small HTTP client for one hub: pinned TLS, deadlines, bounded answers, streams.
//!
//! HTTP/1.1 only, with idle connections kept: a program of a few requests gains nothing from multiplexing, and a
//! follower that stops reading a stream of many small pieces would have its HTTP/2 connection closed under it
//! (docs/link.md, "Small pieces"). No redirects, no proxies, no cookies: a hub's API needs none of them, and each
//! is a way to send a token somewhere else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lictor_proto::api::Problem;
use lictor_proto::code::{Code, Refusal};
use tokio_util::task::TaskTracker;

use crate::LinkError;
use crate::dial::{HubUrl, dial};
use crate::tls::ClientTls;

/// How long connecting may take, TLS included.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Connections kept for the next request.
const IDLE: usize = 32;

/// Any cause of a broken request body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A request's body.
pub type RequestBody = BoxBody<Bytes, BodyError>;

/// A request body of bytes that are all there.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A request body that comes piece by piece.
pub fn streamed<S>(pieces: S) -> RequestBody
where
    S: futures_util::Stream<Item = Result<Bytes, BodyError>> + Send + Sync + 'static,
{
    use futures_util::TryStreamExt as _;
    StreamBody::new(pieces.map_ok(Frame::data)).boxed()
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
    /// When the same may be asked again, if it said so.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// All of a response, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn collect(response: Response<Incoming>, limit: usize) -> Result<Self, LinkError> {
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER);
        let seconds = after.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        Ok(Self {
            status,
            body: collect(response.into_body(), limit).await?,
            retry_after: seconds.map(Duration::from_secs),
        })
    }

    /// The body as a `T`, or what the other side refused.
    ///
    /// # Errors
    /// The refusal of a problem document; [`Code::BadRequest`] when the body is not a `T`.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Refusal> {
        if !self.status.is_success() {
            return Err(self.refusal());
        }
        serde_json::from_slice(&self.body)
            .map_err(|e| Refusal::new(Code::BadRequest, format!("unexpected answer: {e}")))
    }

    /// What an answer that is no success says: the problem's own code and words, else the status.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(p) => Refusal::new(p.code, p.detail),
            Err(_) => Refusal::new(Code::Unavailable, format!("the hub answered {}", self.status)),
        }
    }
}

/// A client of one hub. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    url: HubUrl,
    tls: Option<ClientTls>,
    tasks: TaskTracker,
    idle: Mutex<Vec<SendRequest<RequestBody>>>,
}

impl HttpClient {
    /// A client of the hub at `url`. Its connections' tasks run on `tasks`.
    #[must_use]
    pub fn new(url: HubUrl, tls: Option<ClientTls>, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            url,
            tls,
            tasks,
            idle: Mutex::default(),
        }))
    }

    /// The hub's address.
    #[must_use]
    pub fn url(&self) -> &HubUrl {
        &self.0.url
    }

    /// Sends a request (its URI a path) and gives the answer's head within `deadline`; the body follows as a stream.
    ///
    /// # Errors
    /// [`LinkError`]; nothing is sent twice, but for a request that hyper gives back unsent.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        deadline: Duration,
    ) -> Result<Response<Incoming>, LinkError> {
        tokio::time::timeout(deadline, self.send_now(request))
            .await
            .map_err(|_| LinkError::Timeout(deadline))?
    }

    /// Sends a request and collects its answer of at most `limit` bytes, all within `deadline`.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn call(
        &self,
        request: Request<RequestBody>,
        limit: usize,
        deadline: Duration,
    ) -> Result<Answer, LinkError> {
        let work = async {
            let response = self.send_now(request).await?;
            Answer::collect(response, limit).await
        };
        tokio::time::timeout(deadline, work)
            .await
            .map_err(|_| LinkError::Timeout(deadline))?
    }

    async fn send_now(&self, mut request: Request<RequestBody>) -> Result<Response<Incoming>, LinkError> {
        request.headers_mut().insert(HOST, self.host()?);
        // A kept connection may have been closed by the hub at this very moment; hyper then gives the request
        // back, and a fresh connection gets it. Anything that may have been sent is never sent again.
        while let Some(sender) = self.take_idle() {
            match self.send_on(sender, request).await {
                Ok(response) => return Ok(response),
                Err((_, Some(unsent))) => request = unsent,
                Err((e, None)) => return Err(e),
            }
        }
        let sender = self.connect().await?;
        self.send_on(sender, request).await.map_err(|(e, _)| e)
    }

    async fn send_on(
        &self,
        mut sender: SendRequest<RequestBody>,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, (LinkError, Option<Request<RequestBody>>)> {
        let sent = sender.try_send_request(request).await;
        let response = sent.map_err(|mut e| {
            let unsent = e.take_message();
            (lost(e.into_error()), unsent)
        })?;
        self.idle(|kept| {
            if kept.len() < IDLE {
                kept.push(sender);
            }
        });
        Ok(response)
    }

    fn take_idle(&self) -> Option<SendRequest<RequestBody>> {
        self.idle(|kept| {
            kept.retain(|s| !s.is_closed());
            // One whose last answer is still being read is not ready; it stays for later.
            let ready = kept.iter().position(SendRequest::is_ready)?;
            Some(kept.swap_remove(ready))
        })
    }

    async fn connect(&self) -> Result<SendRequest<RequestBody>, LinkError> {
        let io = dial(&self.0.url, self.0.tls.as_ref(), CONNECT_WITHIN).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await.map_err(lost)?;
        self.drive(driver);
        Ok(sender)
    }

    fn drive(&self, driver: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) {
        self.0.tasks.spawn(async move {
            if let Err(e) = driver.await {
                tracing::debug!(error = %e, "connection to the hub ended");
            }
        });
    }

    fn idle<T>(&self, f: impl FnOnce(&mut Vec<SendRequest<RequestBody>>) -> T) -> T {
        f(&mut self.0.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn host(&self) -> Result<HeaderValue, LinkError> {
        let host = HeaderValue::from_str(&self.0.url.authority());
        host.map_err(|e| LinkError::Protocol(e.to_string()))
    }
}

/// All of a body, when it has at most `limit` bytes.
///
/// # Errors
/// [`LinkError::TooLarge`], or [`LinkError::Lost`] when it breaks off.
pub async fn collect<B>(body: B, limit: usize) -> Result<Bytes, LinkError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    let mut body = std::pin::pin!(body);
    if body.size_hint().lower() > limit as u64 {
        return Err(LinkError::TooLarge(limit));
    }
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| LinkError::Lost(e.into()))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > limit {
                return Err(LinkError::TooLarge(limit));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

fn lost(e: hyper::Error) -> LinkError {
    LinkError::Lost(Box::new(e))
}
