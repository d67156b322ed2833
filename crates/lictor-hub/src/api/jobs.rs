//! Jobs, their documents, approvals, cancels, standard input.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt as _;
use lictor_proto::api::{ExecutionState, FRAMES, JobDocuments, JobView, Page, PendingApproval, Problem};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest, Envelope, limits};
use serde::Deserialize;

use super::Api;
use super::auth::Auth;
use super::page::{PageQuery, decode, encode, known, limit, parsed, read_text};
use super::problem::Trouble;
use super::streams::frames_body;
use crate::store::{Inserted, JobFilter};

type Reply<T> = Result<T, Trouble>;

/// Submit a signed job. The body is the envelope. With `Accept: application/vnd.lictor.frames` the answer is the
/// job's stream, events and output of all its nodes (see `/api/v1/stream/{id}`); otherwise
/// 202 and a `JobView`, once the job has survived a power loss. 429 `queue_full` or `jobs_full` when too much waits or is stored already.
#[utoipa::path(post, operation_id = "submit_job", path = "/api/v1/jobs", tag = "jobs",
    request_body(content = Envelope, content_type = "application/json", description = "the signed job (DSSE envelope)"),
    responses((status = 200, description = "the job's stream", content_type = "application/vnd.lictor.frames"),
              (status = 202, description = "done", body = JobView), (status = 422, description = "refused", body = Problem, content_type = "application/problem+json"),
              (status = 429, description = "over a limit; `Retry-After` says when to come again", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    headers: HeaderMap,
    body: Body,
) -> Reply<Response> {
    let wire = read_text(body, limits::JOB_ENVELOPE).await?;
    let attached = headers.get(header::ACCEPT).is_some_and(|a| a == FRAMES);
    if attached {
        let followers = api.app.submit_attached(&caller, wire).await?;
        return Ok(frames_body(followers));
    }
    let view = api.app.submit_detached(&caller, wire).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Filters of the job list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct JobQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    state: Option<ExecutionState>,
    node: Option<String>,
    operator: Option<String>,
}

/// Jobs, newest first.
#[utoipa::path(get, operation_id = "list_jobs", path = "/api/v1/jobs", tag = "jobs",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query), ("state" = Option<String>, Query),
           ("node" = Option<String>, Query), ("operator" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<JobView>)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<JobQuery>,
) -> Reply<Json<Page<JobView>>> {
    let filter = JobFilter {
        state: query.state,
        node: parsed("node", query.node.as_deref())?,
        operator: parsed("operator", query.operator.as_deref())?,
        listed: None,
        after: query.cursor.as_deref().map(decode).transpose()?,
        limit: limit(query.limit),
    };
    let (items, next) = api.app.jobs(&caller, filter).await?;
    Ok(Json(Page {
        items,
        next_cursor: next.as_ref().map(encode),
    }))
}

/// One job with its executions.
#[utoipa::path(get, operation_id = "get_job", path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "done", body = JobView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Reply<Json<JobView>> {
    Ok(Json(api.app.job(&caller, &known(&id)?).await?))
}

/// Every signed document about a job, to be checked by whoever reads it.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/documents", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "done", body = JobDocuments), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn documents(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Reply<Json<JobDocuments>> {
    Ok(Json(api.app.documents(&caller, &known(&id)?).await?))
}

/// What a job brings besides its words, its standard input or the file that it puts, up to 1 MiB; to be held against the
/// digest in the signed job by whoever reads it.
#[utoipa::path(get, operation_id = "get_job_input", path = "/api/v1/jobs/{id}/input", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "the bytes", content_type = "application/octet-stream"),
              (status = 404, description = "not found", body = Problem, content_type = "application/problem+json"),
              (status = 422, description = "too large to be shown", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn input(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Reply<Response> {
    let bytes = api.app.input(&caller, &known(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// The job, as it stands after a signed document about it was handed in.
type Handed = Reply<(StatusCode, Json<JobView>)>;

/// Takes a signed document about a job.
async fn hand_in(body: Body, take: impl AsyncFnOnce(String) -> Reply<JobView>) -> Handed {
    let wire = read_text(body, limits::ENVELOPE).await?;
    Ok((StatusCode::ACCEPTED, Json(take(wire).await?)))
}

/// Hand in a signed cancel.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path)),
    request_body(content = Envelope, content_type = "application/json", description = "the signed cancel (DSSE envelope)"),
    responses((status = 202, description = "done", body = JobView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
    body: Body,
) -> Handed {
    let id = known(&id)?;
    hand_in(body, async |wire| Ok(api.app.cancel(&caller, &id, &wire).await?)).await
}

/// Hand in a signed approval of this job.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/approvals", tag = "jobs", params(("id" = String, Path)),
    request_body(content = Envelope, content_type = "application/json", description = "the signed approval (DSSE envelope)"),
    responses((status = 202, description = "done", body = JobView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn approve_job(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
    body: Body,
) -> Handed {
    let id = known(&id)?;
    hand_in(body, async |wire| {
        Ok(api.app.approve(&caller, Some(&id), &wire).await?)
    })
    .await
}

/// Hand in a signed release of this job on some of its nodes.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/releases", tag = "jobs", params(("id" = String, Path)),
    request_body(content = Envelope, content_type = "application/json", description = "the signed release (DSSE envelope)"),
    responses((status = 202, description = "done", body = JobView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn release(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
    body: Body,
) -> Handed {
    let id = known(&id)?;
    hand_in(body, async |wire| {
        Ok(api.app.release(&caller, &id, &wire).await?)
    })
    .await
}

/// Hand in a signed remark about this job: a rejection, or a review. Nothing follows from it.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/remarks", tag = "jobs", params(("id" = String, Path)),
    request_body(content = Envelope, content_type = "application/json", description = "the signed remark (DSSE envelope)"),
    responses((status = 202, description = "done", body = JobView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn remark(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
    body: Body,
) -> Handed {
    let id = known(&id)?;
    hand_in(body, async |wire| Ok(api.app.remark(&caller, &id, &wire).await?)).await
}

/// Jobs that wait for approvals, with every document to check before signing.
#[utoipa::path(get, path = "/api/v1/approvals", tag = "jobs",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<PendingApproval>)))]
pub(super) async fn approvals(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<PageQuery>,
) -> Reply<Json<Page<PendingApproval>>> {
    let (items, next) = api
        .app
        .pending_approvals(&caller, query.after()?, query.limit())
        .await?;
    Ok(Json(Page {
        items,
        next_cursor: next.as_ref().map(encode),
    }))
}

/// Hand in a signed approval, which names its job.
#[utoipa::path(post, path = "/api/v1/approvals", tag = "jobs",
    request_body(content = Envelope, content_type = "application/json", description = "the signed approval (DSSE envelope)"),
    responses((status = 202, description = "done", body = JobView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn approve(State(api): State<Arc<Api>>, Auth(caller): Auth, body: Body) -> Handed {
    hand_in(body, async |wire| {
        Ok(api.app.approve(&caller, None, &wire).await?)
    })
    .await
}

/// Store standard input, or a file, for a job to come, by its SHA-256 in hex.
#[utoipa::path(put, path = "/api/v1/blobs/{sha256}", tag = "jobs", params(("sha256" = String, Path)),
    request_body(content_type = "application/octet-stream", description = "at most 4 GiB"),
    responses((status = 201, description = "stored"), (status = 200, description = "was there already"),
              (status = 422, description = "not what its digest says", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put_blob(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(sha256): Path<String>,
    body: Body,
) -> Reply<StatusCode> {
    let prefixed = if sha256.starts_with("sha256:") {
        sha256
    } else {
        format!("sha256:{sha256}")
    };
    let sha256: Digest = prefixed
        .parse()
        .map_err(|_| Trouble::new(Code::BadRequest, "the path ends with 64 hex digits"))?;
    let pieces = body
        .into_data_stream()
        .map_err(|e| Refusal::new(Code::BadRequest, e.to_string()).into());
    Ok(match api.app.put_stdin(&caller, &sha256, pieces).await? {
        Inserted::New => StatusCode::CREATED,
        Inserted::Same => StatusCode::OK,
    })
}
