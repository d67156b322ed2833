//! What nodes call, over connections that proved a link key: enrolment, the link, poll mode.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::TryFutureExt as _;
use lictor_link::ws::{WsStream, upgrade};
use lictor_proto::agent::{Finished, Heartbeat};
use lictor_proto::api::{
    EnrollReply, EnrollRequest, LogStored, PollAnswer, PollOrders, Problem, ResultStored, StartedReport,
};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Envelope, JobId, limits};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::Api;
use super::auth::{AnyNode, NodeAuth};
use super::page::{known, read, read_json};
use super::problem::Trouble;
use crate::app::Error;
use crate::link::PeerError;
use crate::link::execution::Told;
use crate::link::tracker::{Mail, serve_link};
use crate::relay::splitter::Place;

type Reply<T> = Result<T, Trouble>;

/// A grant and the org's law, for a machine that is about to enrol under it.
#[utoipa::path(get, path = "/api/v1/agent/grants/{org}/{digest}", tag = "agent",
    params(("org" = String, Path), ("digest" = String, Path)),
    responses((status = 200, description = "done", body = EnrollReply), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn grant(
    State(api): State<Arc<Api>>,
    AnyNode(_): AnyNode,
    Path((org, digest)): Path<(String, String)>,
) -> Reply<Json<EnrollReply>> {
    Ok(Json(
        api.app.grant_for_node(&known(&org)?, &known(&digest)?).await?,
    ))
}

/// Enrol: a node record on its grant.
#[utoipa::path(post, path = "/api/v1/agent/enroll", tag = "agent",
    request_body = EnrollRequest,
    responses((status = 200, description = "done", body = EnrollReply), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn enroll(
    State(api): State<Arc<Api>>,
    AnyNode(key): AnyNode,
    body: Body,
) -> Reply<Json<EnrollReply>> {
    let request: EnrollRequest = read_json(body, 2 * limits::ENVELOPE).await?;
    Ok(Json(api.app.enroll(&key.0, &request).await?))
}

/// The link: a WebSocket that the node opens and then serves HTTP/2 on.
#[utoipa::path(get, path = "/api/v1/agent/link", tag = "agent",
    responses((status = 101, description = "WebSocket"), (status = 400, description = "no WebSocket", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn link(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    mut request: Request,
) -> Reply<Response> {
    let (response, socket) =
        upgrade(&mut request).map_err(|e| Trouble::new(Code::BadRequest, e.to_string()))?;
    let app = api.app.clone();
    let id = node.node_id.clone();
    api.app.tasks.spawn(async move {
        let io = socket.socket().map_ok(WsStream::new);
        if let Err(e) = serve_link(&app, node, io).await {
            tracing::info!(node = %id, error = %e, "no link");
        }
    });
    Ok(response.map(|_empty| Body::empty()))
}

/// Poll mode: begins or keeps up the node's session.
#[utoipa::path(post, path = "/api/v1/agent/heartbeat", tag = "agent",
    request_body = Heartbeat,
    responses((status = 204, description = "taken")))]
pub(super) async fn heartbeat(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    body: Body,
) -> Reply<StatusCode> {
    let beat: Heartbeat = read_json(body, limits::API_BODY).await?;
    if beat.node_id != node.node_id || beat.org != node.org {
        return Err(Trouble::new(Code::WrongNode, "a heartbeat of another node"));
    }
    let session = api.polls.session(&api.app, node);
    post(&session.link, Mail::Heartbeat(Box::new(beat))).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `?wait=` in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WaitQuery {
    wait: u64,
}

/// Poll mode: what the hub wants of the node, waiting up to `wait` seconds (at most 60) for it.
#[utoipa::path(get, path = "/api/v1/agent/jobs/next", tag = "agent", params(("wait" = Option<u64>, Query)),
    responses((status = 200, description = "done", body = PollOrders)))]
pub(super) async fn next(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    Query(query): Query<WaitQuery>,
) -> Reply<Json<PollOrders>> {
    let session = api.polls.session(&api.app, node);
    let wait = Duration::from_secs(query.wait.min(60));
    let stop = api.app.stop.clone();
    let orders = stop.run_until_cancelled(session.orders(wait)).await;
    Ok(Json(orders.unwrap_or_default()))
}

/// Poll mode: the warden's answer to an order.
#[utoipa::path(post, path = "/api/v1/agent/answers", tag = "agent",
    request_body = PollAnswer,
    responses((status = 204, description = "taken")))]
pub(super) async fn answers(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    body: Body,
) -> Reply<StatusCode> {
    let answer: PollAnswer = read_json(body, limits::ASK).await?;
    api.polls.session(&api.app, node).answer(answer);
    Ok(StatusCode::NO_CONTENT)
}

/// Poll mode: an execution started.
#[utoipa::path(post, path = "/api/v1/agent/jobs/{id}/started", tag = "agent", params(("id" = String, Path)),
    request_body = StartedReport,
    responses((status = 204, description = "taken")))]
pub(super) async fn started(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    Path(id): Path<String>,
    body: Body,
) -> Reply<StatusCode> {
    let report: StartedReport = read_json(body, limits::EVENT).await?;
    let session = api.polls.session(&api.app, node);
    let job = known(&id)?;
    post(&session.link, Mail::Started { job, report }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Poll mode: an execution goes on; renews the leases of the node.
#[utoipa::path(post, path = "/api/v1/agent/jobs/{id}/heartbeat", tag = "agent", params(("id" = String, Path)),
    responses((status = 204, description = "renewed")))]
pub(super) async fn renew(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    Path(id): Path<String>,
) -> Reply<StatusCode> {
    let _: JobId = known(&id)?;
    let session = api.polls.session(&api.app, node);
    session.link.seen(None).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `?at=`, a log position; with the offsets of both streams there, of a kept part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AtQuery {
    at: u64,
    stdout_at: Option<u64>,
    stderr_at: Option<u64>,
}

/// Poll mode: frames of a log from position `at` on. With `stdout_at` and `stderr_at` they are of a part that the
/// node kept of a log that has ended, and are only stored.
#[utoipa::path(post, path = "/api/v1/agent/jobs/{id}/log", tag = "agent",
    params(("id" = String, Path), ("at" = u64, Query), ("stdout_at" = Option<u64>, Query), ("stderr_at" = Option<u64>, Query)),
    request_body(content_type = "application/vnd.lictor.frames", description = "whole frames, at most 4 MiB"),
    responses((status = 200, description = "done", body = LogStored)))]
pub(super) async fn log(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    Path(id): Path<String>,
    Query(query): Query<AtQuery>,
    body: Body,
) -> Reply<Json<LogStored>> {
    let frames = read(body, limits::EVENT).await?;
    let session = api.polls.session(&api.app, node);
    let (stored, upto) = oneshot::channel();
    let job = known(&id)?;
    let at = query.at;
    let mail = match (query.stdout_at, query.stderr_at) {
        (Some(stdout), Some(stderr)) => Mail::Kept {
            job,
            at: Place { at, stdout, stderr },
            frames,
            stored,
        },
        _ => Mail::Log {
            job,
            at,
            frames,
            stored,
        },
    };
    post(&session.link, mail).await?;
    let upto = upto.await;
    Ok(Json(upto.map_err(|_| {
        Trouble::new(Code::Unavailable, "the log was not stored")
    })?))
}

/// Poll mode: an execution ended.
#[utoipa::path(post, path = "/api/v1/agent/jobs/{id}/result", tag = "agent", params(("id" = String, Path)),
    request_body = Finished,
    responses((status = 200, description = "done", body = ResultStored), (status = 409, description = "another result stands", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn result(
    State(api): State<Arc<Api>>,
    NodeAuth(node): NodeAuth,
    Path(id): Path<String>,
    body: Body,
) -> Reply<Json<ResultStored>> {
    let finished: Finished = read_json(body, limits::EVENT).await?;
    if known::<JobId>(&id)? != JobId::from_digest(&finished.job) {
        return Err(Trouble::new(
            Code::WrongJob,
            "the result is of another job than the path",
        ));
    }
    let receipt = Envelope::parse(finished.receipt.as_bytes(), limits::ENVELOPE)
        .map_err(|e| Trouble::new(Code::EnvelopeMalformed, e.to_string()))?
        .digest();
    let session = api.polls.session(&api.app, node);
    let (told, outcome) = oneshot::channel();
    let finished = Box::new(finished);
    post(&session.link, Mail::Result { finished, told }).await?;
    let unavailable = |why| Err(Trouble::new(Code::Unavailable, why));
    match outcome.await {
        Ok(Told::Stored) => Ok(Json(ResultStored { receipt })),
        Ok(Told::Conflict) => Err(Error::Conflict(Refusal::plain(Code::ResultConflict)).into()),
        Ok(Told::Refused(why)) => Err(Error::Recorded(why).into()),
        Ok(Told::Incomplete) => unavailable("a part of the log that the node keeps has not come"),
        Err(_) => unavailable("the result was not stored"),
    }
}

async fn post(link: &crate::link::NodeLink, mail: Mail) -> Reply<()> {
    let sent: Result<(), PeerError> = link.post(mail).await;
    sent.map_err(|e| Trouble::new(Code::Unavailable, e.to_string()))
}
