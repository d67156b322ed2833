//! The agent's HTTP routes, all of them, whichever way a request came.
//!
//! | route | what |
//! |---|---|
//! | `GET /v1/health` | whether the link lives, with a body (pings don't notice a full connection window) |
//! | `GET /v1/events` | the warden's events, until the link ends |
//! | `POST /v1/ask` | one [`Request`], one [`Reply`] |
//! | `POST /v1/input/{sha256}?from=N` | bytes of a job's input from a position to its end, and one [`Reply`] |
//! | `GET /v1/output/{job}?from=N` | raw frames of a job's log from a position, until the log's end |
//!
//! The router is made from [`ROUTES`], so there is no route that the list doesn't name.
//!
//! # Invariants
//! - A handler holds no work: dropping it half way changes nothing but the answer.
//! - What is in memory for requests is bounded by [`ASK_BUDGET`], for answers by windows and 256 KiB a stream.

mod input;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use lictor_proto::agent::{ReadOutput, Reply, Request};
use lictor_proto::api::{FRAMES, Health, PROBLEM, Problem};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Digest, json, limits};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::port::WardenPort;

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `GET /v1/health`
    Health,
    /// `GET /v1/events`
    Events,
    /// `POST /v1/ask`
    Ask,
    /// `POST /v1/input/{sha256}`
    Input,
    /// `GET /v1/output/{job}`
    Output,
}

/// Every route there is: method, path, what it is.
pub const ROUTES: &[(&str, &str, Route)] = &[
    ("GET", "/v1/health", Route::Health),
    ("GET", "/v1/events", Route::Events),
    ("POST", "/v1/ask", Route::Ask),
    ("POST", "/v1/input/{sha256}", Route::Input),
    ("GET", "/v1/output/{job}", Route::Output),
];

/// Where a request's authority comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// It carries signed documents, which the warden verifies.
    Signed,
    /// It tells what the hub has stored, or brings bytes that a signed digest must match.
    Acknowledgement,
    /// It changes nothing.
    Read,
    /// It is for this machine's own processes and never taken from a hub.
    Local,
}

/// The closed list: every request there is, and where its authority comes from.
#[must_use]
pub fn authority(request: &Request) -> Authority {
    match request {
        Request::Offer(_)
        | Request::Law(_)
        | Request::Approval(_)
        | Request::Cancel(_)
        | Request::CancelJob(_) => Authority::Signed,
        Request::Ack(_) | Request::Stdin(_) => Authority::Acknowledgement,
        Request::Status => Authority::Read,
        // Draining is the machine's own business; output has a route of its own, as its bytes are no JSON.
        Request::Drain { .. } | Request::ReadOutput(_) => Authority::Local,
    }
}

/// Asks the warden what a hub may ask, and refuses the rest.
pub async fn ask_for_hub(port: &dyn WardenPort, request: Request) -> Reply {
    match authority(&request) {
        Authority::Local => Reply::Refused(Refusal::new(Code::BadRequest, "a hub may not ask this")),
        Authority::Signed | Authority::Acknowledgement | Authority::Read => port.ask(request).await,
    }
}

/// Bytes of request bodies in memory at once, in KiB.
pub const ASK_BUDGET: usize = 32 * 1024;

struct App {
    port: Arc<dyn WardenPort>,
    budget: Semaphore,
    stop: CancellationToken,
}

/// The agent's router over a warden. At `stop` the event stream ends, so that a link can close in order.
pub fn router(port: Arc<dyn WardenPort>, stop: CancellationToken) -> Router {
    let app = App {
        port,
        budget: Semaphore::new(ASK_BUDGET),
        stop,
    };
    ROUTES
        .iter()
        .fold(Router::new(), |router, (_, path, route)| {
            router.route(path, handler(*route))
        })
        .with_state(Arc::new(app))
}

fn handler(route: Route) -> MethodRouter<Arc<App>> {
    match route {
        Route::Health => get(health),
        Route::Events => get(events),
        Route::Ask => post(ask),
        Route::Input => post(input),
        Route::Output => get(output),
    }
}

async fn health() -> Response {
    json_answer(&Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

/// What a hub wants of the events.
#[derive(serde::Deserialize)]
struct Wanted {
    /// Also what was fired, where something started that it has not handed over; hubs of before have no word for it.
    #[serde(default)]
    firings: bool,
}

async fn events(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Response {
    let feed = match wanted.firings {
        true => app.port.events(),
        false => Box::new(stream::WithoutFirings(app.port.events())),
    };
    stream::events(feed, app.stop.clone()).into_response()
}

async fn ask(State(app): State<Arc<App>>, body: Body) -> Response {
    match take(&app, body).await {
        Ok(request) => json_answer(&ask_for_hub(app.port.as_ref(), request).await),
        Err(refusal) => problem(&refusal),
    }
}

/// Reads a request, whose body says its length and has room in the budget.
async fn take(app: &App, body: Body) -> Result<Request, Refusal> {
    let length = body
        .size_hint()
        .exact()
        .ok_or_else(|| Refusal::new(Code::BadRequest, "the body must say its length"))?;
    if length > limits::ASK as u64 {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("{length} bytes; the limit is {}", limits::ASK),
        ));
    }
    let kib = u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX);
    let room = app.budget.acquire_many(kib).await;
    let _room = room.map_err(|_| Refusal::plain(Code::Internal))?;
    let bytes = body
        .collect()
        .await
        .map_err(|e| Refusal::new(Code::BadRequest, format!("the body broke off: {e}")))?
        .to_bytes();
    json::from_slice(&bytes).map_err(|e| Refusal::new(Code::BadRequest, e.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    #[serde(default)]
    from: u64,
}

async fn input(
    State(app): State<Arc<App>>,
    Path(sha256): Path<String>,
    query: Result<Query<From>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Response {
    let (Ok(sha256), Ok(Query(From { from }))) = (sha256.parse::<Digest>(), query) else {
        return problem(&Refusal::new(
            Code::BadRequest,
            "/v1/input/sha256:<64 hex>?from=<position>",
        ));
    };
    let room = app.budget.acquire_many(input::KIB).await;
    let taken = match room {
        Ok(_room) => input::take(app.port.as_ref(), (sha256, from), body).await,
        Err(_) => Err(Refusal::plain(Code::Internal)),
    };
    match taken {
        Ok(reply) => json_answer(&reply),
        Err(refusal) => problem(&refusal),
    }
}

async fn output(
    State(app): State<Arc<App>>,
    Path(job): Path<String>,
    query: Result<Query<From>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let (Ok(job), Ok(Query(From { from }))) = (job.parse::<Digest>(), query) else {
        return problem(&Refusal::new(
            Code::BadRequest,
            "/v1/output/sha256:<64 hex>?from=<position>",
        ));
    };
    let read = ReadOutput {
        job,
        from,
        max: stream::PIECE,
        wait: false,
    };
    match stream::output(app.port.clone(), read).await {
        Ok(body) => ([(header::CONTENT_TYPE, FRAMES)], body).into_response(),
        Err(refusal) => problem(&refusal),
    }
}

fn json_answer<T: serde::Serialize>(value: &T) -> Response {
    match json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(e) => problem(&Refusal::new(Code::Internal, e.to_string())),
    }
}

/// A refusal before the warden answered, as problem details (RFC 9457).
fn problem(refusal: &Refusal) -> Response {
    let status = match refusal.code {
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    let body = Problem {
        problem_type: format!("https://lictor.dev/problems/{}", refusal.code),
        title: refusal.code.sentence().into(),
        status: status.as_u16(),
        code: refusal.code,
        detail: refusal.message.clone(),
        hint: refusal.code.hint().into(),
        request_id: String::new(),
    };
    let bytes = json::to_vec(&body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, PROBLEM)], bytes).into_response()
}
