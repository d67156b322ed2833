//! Errors as problem details (RFC 9457): the one place where the hub's errors become HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lictor_proto::Code;
use lictor_proto::api::{PROBLEM, Problem};
use lictor_proto::code::Refusal;

use super::Api;
use super::auth::Subject;
use crate::app::Error;

/// The header that names a request, here and in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// No handler may take longer to start its answer; the longest poll waits 60 s.
const WITHIN: Duration = Duration::from_secs(75);
/// Except one that takes a large body (standard input), which has a deadline for each piece.
const UPLOAD: Duration = Duration::from_secs(3600);
/// When somebody whom a busy hub refused may come again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A problem, until [`frame`] writes it down with the request's id.
#[derive(Debug, Clone)]
pub struct Trouble {
    status: StatusCode,
    refusal: Refusal,
    /// Whether the audit log has it.
    recorded: bool,
    /// When the same may be asked again.
    again_in: Option<Duration>,
}

impl Trouble {
    /// A problem with its own words.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            status: status_of(code),
            refusal: Refusal::new(code, detail),
            recorded: false,
            again_in: (code == Code::Busy).then_some(RETRY_AFTER),
        }
    }

    /// The same, of which the audit log has a record.
    pub fn recorded(self) -> Self {
        Self {
            recorded: true,
            ..self
        }
    }
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        let refusal = match e {
            Error::Unauthenticated => Code::Unauthenticated.into(),
            Error::Scope(scope) => {
                let need = serde_json::to_string(&scope).unwrap_or_default();
                Refusal::new(Code::ScopeMissing, format!("this needs a token of scope {need}"))
            }
            Error::NotFound => Code::NotFound.into(),
            Error::Refused(refusal) => refusal,
            Error::Recorded(refusal) => return Self::new(refusal.code, refusal.message).recorded(),
            Error::Conflict(refusal) => {
                return Self {
                    status: StatusCode::CONFLICT,
                    refusal,
                    recorded: true,
                    again_in: None,
                };
            }
            Error::Later(refusal, again_in) => {
                let again_in = Some(again_in);
                let trouble = Self::new(refusal.code, refusal.message);
                return Self { again_in, ..trouble };
            }
            Error::Store(_) | Error::Objects(_) | Error::Internal(_) => {
                // What exactly failed is for the log, under the request's id.
                tracing::error!(error = %e.chain(), "a request failed inside");
                Code::Internal.into()
            }
        };
        Self::new(refusal.code, refusal.message)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ScopeMissing => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::ResultConflict | Code::AlreadyExists | Code::AmbiguousName | Code::GrantUsed => {
            StatusCode::CONFLICT
        }
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Timeout => StatusCode::REQUEST_TIMEOUT,
        Code::RateLimited | Code::QueueFull | Code::JobsFull => StatusCode::TOO_MANY_REQUESTS,
        Code::Busy | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::BadRequest | Code::EnvelopeMalformed | Code::PayloadMalformed | Code::WrongType => {
            StatusCode::BAD_REQUEST
        }
        // Everything else reads well and is refused for what it says.
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// No such path.
pub async fn no_route() -> Trouble {
    Trouble::new(Code::NotFound, "no such path")
}

/// The path exists, the method does not.
pub async fn no_method() -> Trouble {
    Trouble::new(Code::MethodNotAllowed, Code::MethodNotAllowed.sentence())
}

/// Around every request: an id, a deadline, a problem document for every error, a record of every refusal, a count.
pub(super) async fn frame(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let started = Instant::now();
    let method = request.method().clone();
    let uri = request.uri().path().to_owned();
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |p| p.as_str().to_owned());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let subject = Subject::default();
    request.extensions_mut().insert(subject.clone());
    let within = if method == Method::PUT { UPLOAD } else { WITHIN };
    let mut response = match tokio::time::timeout(within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Trouble::new(Code::Timeout, Code::Timeout.sentence()).into_response(),
    };
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && !has_problem(&response) {
        let trouble = trouble_of(&response);
        if trouble.is_for_the_record(&method) {
            api.record(&subject, &method, &uri, trouble.refusal.code).await;
        }
        response = write_down(trouble, &id);
    }
    response.headers_mut().insert(REQUEST_ID, id.clone());
    let labels = [
        ("method", method.to_string()),
        ("path", path.clone()),
        ("status", status.as_u16().to_string()),
    ];
    metrics::counter!("lictor_hub_requests_total", &labels).increment(1);
    tracing::debug!(%method, path, status = status.as_u16(), request_id = ?id, took = ?started.elapsed(), "request");
    response
}

impl Trouble {
    /// Every refusal of something that would change something, and everybody who may not do what they asked.
    fn is_for_the_record(&self, method: &Method) -> bool {
        let code = self.refusal.code;
        let not_theirs = matches!(code, Code::Unauthenticated | Code::ScopeMissing);
        let refused = self.status.is_client_error() || code == Code::Busy;
        !self.recorded && refused && (not_theirs || !method.is_safe())
    }
}

fn has_problem(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t| t == PROBLEM)
}

fn trouble_of(response: &Response) -> Trouble {
    response
        .extensions()
        .get::<Trouble>()
        .cloned()
        .unwrap_or_else(|| {
            // An extractor of the framework refused it.
            let code = match response.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
                StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
                s if s.is_server_error() => Code::Internal,
                _ => Code::BadRequest,
            };
            Trouble {
                status: response.status(),
                refusal: code.into(),
                recorded: false,
                again_in: None,
            }
        })
}

fn write_down(trouble: Trouble, id: &HeaderValue) -> Response {
    let code = trouble.refusal.code;
    let problem = Problem {
        problem_type: format!("https://lictor.dev/problems/{code}"),
        title: code.sentence().to_owned(),
        status: trouble.status.as_u16(),
        code,
        detail: trouble.refusal.message,
        hint: code.hint().to_owned(),
        request_id: id.to_str().unwrap_or_default().to_owned(),
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut written = (trouble.status, Body::from(body)).into_response();
    let headers = written.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    if trouble.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(again_in) = trouble.again_in {
        // Whole seconds, and never before it is of use.
        let seconds = again_in.as_secs() + u64::from(again_in.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    written
}

/// The caller's id for the request when it is a sane one, else a fresh one.
fn request_id(request: &Request) -> HeaderValue {
    let sane = |v: &&HeaderValue| {
        let b = v.as_bytes();
        !b.is_empty() && b.len() <= 64 && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
    };
    if let Some(id) = request.headers().get(REQUEST_ID).filter(sane) {
        return id.clone();
    }
    let mut random = [0; 10];
    // Without random bytes the ids are equal, which costs only the log.
    let _ = getrandom::fill(&mut random);
    let id = data_encoding::BASE32_NOPAD.encode(&random).to_ascii_lowercase();
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
}
