//! The hub's API as typed calls. What comes back is what the hub *says*; signed documents in it are checked by
//! [`crate::trust`] and [`crate::follow`], never here.

mod jobs;
mod notify;
mod org;

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use lictor_link::dial::HubUrl;
use lictor_link::http::{Answer, HttpClient, RequestBody, full};
use lictor_link::tls::ClientTls;
use lictor_proto::agent::Wire;
use lictor_proto::api::{FRAMES, Health, Page};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::home::HubAddress;

/// How long a small call may take.
const CALL: Duration = Duration::from_secs(30);
/// How long sending standard input may take.
const UPLOAD: Duration = Duration::from_secs(600);
/// Bytes in a second that a larger file has at least.
const SLOWEST: u64 = 256 * 1024;
/// The largest small answer: a full page of jobs with all their documents.
const ANSWER: usize = 64 * 1024 * 1024;

/// Entries that are asked for at once.
const PAGE: u32 = 200;
/// The longest listing: of twice as many nodes as an org may have ...
const LISTING_PAGES: usize = 2 * limits::NODES / PAGE as usize;
/// ... with some kilobytes each.
const LISTING: usize = 256 * 1024 * 1024;

/// A client of one org on one hub. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    http: HttpClient,
    authorization: Option<HeaderValue>,
    tasks: TaskTracker,
}

/// A stream of frames, not yet read.
pub struct FrameStream {
    pub(crate) body: Incoming,
    /// The connection's task lives as long as somebody reads.
    _hub: Hub,
}

impl Hub {
    /// A client of the hub at `address`; `token` is the API token.
    ///
    /// # Errors
    /// When the address is none, or `https` without a pin.
    pub fn new(address: &HubAddress, token: Option<&str>) -> Result<Self, Error> {
        let url: HubUrl = address.url.parse()?;
        let tls = match (url.tls, address.spki) {
            (true, Some(pin)) => Some(ClientTls::person(vec![pin])?),
            (true, None) => {
                let why = "an https hub needs a pinned key: `spki` in config.toml";
                return Err(Error::Untrusted(Refusal::new(Code::HubPin, why)));
            }
            (false, _) => None,
        };
        let bearer = |t: &str| {
            let mut value = HeaderValue::try_from(format!("Bearer {t}"))
                .map_err(|_| Error::Malformed("the API token has characters that no token has".into()))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        };
        let tasks = TaskTracker::new();
        Ok(Self {
            http: HttpClient::new(url, tls, tasks.clone()),
            authorization: token.map(bearer).transpose()?,
            tasks,
        })
    }

    /// The hub's address.
    #[must_use]
    pub fn url(&self) -> &HubUrl {
        self.http.url()
    }

    /// Whether the hub answers, and which version it is.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn health(&self) -> Result<Health, Error> {
        self.get("/health").await
    }

    /// All pages of a listing; one without an end is an error, however its pages point at each other.
    async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        let mut cursor: Option<String> = None;
        for _ in 0..LISTING_PAGES {
            let path = page(path, PAGE, cursor.as_deref());
            let answer = self.send(Method::GET, &path, Bytes::new(), CALL).await?;
            bytes += answer.body.len();
            if bytes > LISTING {
                break;
            }
            let next: Page<T> = read(&answer)?;
            items.extend(next.items);
            cursor = next.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
        let text = format!("a listing of over {LISTING_PAGES} pages or {} MiB", LISTING >> 20);
        Err(Error::Untrusted(Refusal::new(Code::LimitExceeded, text)))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let answer = self.send(Method::GET, path, Bytes::new(), CALL).await?;
        read(&answer)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, wire: &str) -> Result<T, Error> {
        let body = Bytes::copy_from_slice(wire.as_bytes());
        let answer = self.send(Method::POST, path, body, CALL).await?;
        read(&answer)
    }

    async fn post_json<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        let body = serde_json::to_string(body).map_err(|e| Error::Malformed(e.to_string()))?;
        self.post(path, &body).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes, within: Duration) -> Result<Answer, Error> {
        let mut patience = Patience::default();
        loop {
            let request = self.request(method.clone(), path, body.clone())?;
            let answer = self.http.call(request, ANSWER, within).await?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            patience.wait(&answer).await?;
        }
    }

    /// Opens a stream of frames.
    async fn open(&self, method: Method, path: &str, body: Bytes) -> Result<FrameStream, Error> {
        let mut patience = Patience::default();
        let response: Response<Incoming> = loop {
            let mut request = self.request(method.clone(), path, body.clone())?;
            request
                .headers_mut()
                .insert(ACCEPT, HeaderValue::from_static(FRAMES));
            let response = self.http.send(request, CALL).await?;
            if response.status().is_success() {
                break response;
            }
            patience
                .wait(&Answer::collect(response, limits::API_BODY).await?)
                .await?;
        };
        let is_frames = response.headers().get(CONTENT_TYPE).is_some_and(|t| t == FRAMES);
        if !is_frames {
            return Err(Error::Malformed("expected a stream of frames".to_owned()));
        }
        Ok(FrameStream {
            body: response.into_body(),
            _hub: self.clone(),
        })
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<RequestBody>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(full(body))
            .map_err(|e| Error::Malformed(e.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        Ok(request)
    }

    /// The tasks that drive this client's connections.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

/// How long one call waits in all for its token to be let ask again.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is left of it. A request that was refused for its rate was not looked at, so to make it again does nothing twice.
struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(PATIENCE)
    }
}

impl Patience {
    /// Returns when the same may be asked again.
    ///
    /// # Errors
    /// What the hub refused, when waiting does not help or would take too long.
    async fn wait(&mut self, answer: &Answer) -> Result<(), Error> {
        let refusal = answer.refusal();
        let after = answer.retry_after.filter(|after| *after <= self.0);
        match after {
            Some(after) if refusal.code == Code::RateLimited => {
                self.0 -= after.max(Duration::from_secs(1)).min(self.0);
                tokio::time::sleep(after).await;
                Ok(())
            }
            _ => Err(Error::Refused(refusal)),
        }
    }
}

/// Signed documents as they travel.
pub type Signed = Wire;

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|e| Error::Malformed(e.to_string()))
}

fn page(path: &str, limit: u32, cursor: Option<&str>) -> String {
    let cursor = cursor.map_or_else(String::new, |c| format!("&cursor={}", percent(c)));
    format!("{path}?limit={limit}{cursor}")
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}
