//! Schedules: handed in, listed, and what was fired of one. Everything else is as for a job, under the same id.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use lictor_proto::api::{JobView, Page, Problem};
use lictor_proto::{Envelope, limits};
use serde::Deserialize;

use super::Api;
use super::auth::Auth;
use super::page::{decode, encode, known, limit, parsed, read_text};
use super::problem::Trouble;
use crate::app::Caller;
use crate::store::{JobFilter, Listed};

type Reply<T> = Result<T, Trouble>;

/// Filters of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ScheduleQuery {
    limit: Option<u32>,
    cursor: Option<String>,
    node: Option<String>,
}

/// Submit a signed schedule. The body is the envelope. Its nodes keep it and fire it by themselves; the hub hands it to
/// them, and shows what they tell of it. It is ended by a signed cancel: `/api/v1/jobs/{id}/cancel`.
#[utoipa::path(post, operation_id = "submit_schedule", path = "/api/v1/schedules", tag = "schedules",
    request_body(content = Envelope, content_type = "application/json", description = "the signed schedule (DSSE envelope)"),
    responses((status = 202, description = "done", body = JobView), (status = 422, description = "refused", body = Problem, content_type = "application/problem+json"),
              (status = 503, description = "too much waits; `Retry-After` says when to come again", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    body: Body,
) -> Reply<(StatusCode, Json<JobView>)> {
    let wire = read_text(body, limits::JOB_ENVELOPE).await?;
    let view = api.app.submit_schedule(&caller, wire).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// Schedules, newest first.
#[utoipa::path(get, operation_id = "list_schedules", path = "/api/v1/schedules", tag = "schedules",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query), ("node" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<JobView>)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<ScheduleQuery>,
) -> Reply<Json<Page<JobView>>> {
    page(&api, &caller, query, Listed::Schedules).await
}

/// What the nodes have fired of a schedule, as far as they have told, newest first.
#[utoipa::path(get, operation_id = "list_firings", path = "/api/v1/schedules/{id}/firings", tag = "schedules",
    params(("id" = String, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query), ("node" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<JobView>), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn firings(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
    Query(query): Query<ScheduleQuery>,
) -> Reply<Json<Page<JobView>>> {
    let id = known(&id)?;
    // What is of another org is not there, and neither is what nobody knows.
    api.app.job(&caller, &id).await?;
    let listed = Listed::FiringsOf(id);
    page(&api, &caller, query, listed).await
}

async fn page(
    api: &Api,
    caller: &Caller,
    query: ScheduleQuery,
    listed: Listed,
) -> Reply<Json<Page<JobView>>> {
    let filter = JobFilter {
        node: parsed("node", query.node.as_deref())?,
        listed: Some(listed),
        after: query.cursor.as_deref().map(decode).transpose()?,
        limit: limit(query.limit),
        ..JobFilter::default()
    };
    let (items, next) = api.app.jobs(caller, filter).await?;
    Ok(Json(Page {
        items,
        next_cursor: next.as_ref().map(encode),
    }))
}
