//! Errors as problem details (RFC 9457): the one place where the hub's errors become HTTP.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lictor_proto::Code;
use lictor_proto::api::{PROBLEM, Problem};
use lictor_proto::code::Refusal;

use crate::app::Error;

/// The header that names a request, here and in the log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// No handler may take longer to start its answer; the longest poll waits 60 s.
const WITHIN: Duration = Duration::from_secs(75);

/// A problem, until [`frame`] writes it down with the request's id.
#[derive(Debug, Clone)]
pub struct Trouble {
    status: StatusCode,
    refusal: Refusal,
}

impl Trouble {
    /// A problem with its own words.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            status: status_of(code),
            refusal: Refusal::new(code, detail),
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
            Error::Conflict(refusal) => {
                return Self {
                    status: StatusCode::CONFLICT,
                    refusal,
                };
            }
            Error::Store(_) | Error::Objects(_) | Error::Internal(_) => {
                // What exactly failed is for the log, under the request's id.
                tracing::error!(error = %e.chain(), "a request failed inside");
                Code::Internal.into()
            }
        };
        Self {
            status: status_of(refusal.code),
            refusal,
        }
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

/// Around every request: an id, a deadline, a problem document for every error, a count.
pub async fn frame(mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let started = Instant::now();
    let method = request.method().clone();
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |p| p.as_str().to_owned());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = match tokio::time::timeout(WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Trouble::new(Code::Timeout, Code::Timeout.sentence()).into_response(),
    };
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && !has_problem(&response) {
        response = write_down(response, &id);
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

fn has_problem(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t| t == PROBLEM)
}

fn write_down(response: Response, id: &HeaderValue) -> Response {
    let trouble = response
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
            }
        });
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
    written
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    if trouble.status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        written.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
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
