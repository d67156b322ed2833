//! Rollouts: one job, spread over its nodes by this hub.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use lictor_proto::api::{JobView, NewRollout, Problem, RolloutView};
use lictor_proto::limits;

use super::Api;
use super::auth::Auth;
use super::page::{known, read_json};
use super::problem::Trouble;

/// Submit a signed job with the plan by which it is spread over its nodes: batches, how many at once, a pause after the
/// first batch, and how many failures stop it. The plan is this hub's courtesy, and no node knows it. Answered once
/// both have survived a power loss; `POST /api/v1/jobs/{id}/follow` follows it.
#[utoipa::path(post, operation_id = "submit_rollout", path = "/api/v1/rollouts", tag = "jobs",
    request_body(content = NewRollout, description = "the signed job and the plan"),
    responses((status = 202, description = "done", body = JobView), (status = 422, description = "refused", body = Problem, content_type = "application/problem+json"),
              (status = 429, description = "over a limit; `Retry-After` says when to come again", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    body: Body,
) -> Result<(StatusCode, Json<JobView>), Trouble> {
    let new: NewRollout = read_json(body, limits::ROLLOUT).await?;
    let view = api.app.submit_rollout(&caller, new).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// How the rollout of a job stands.
#[utoipa::path(get, operation_id = "get_rollout", path = "/api/v1/rollouts/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "done", body = RolloutView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Result<Json<RolloutView>, Trouble> {
    Ok(Json(api.app.rollout(&caller, &known(&id)?).await?))
}

/// Let a rollout go on that stopped, or that pauses. What has failed so far counts no more.
#[utoipa::path(post, path = "/api/v1/rollouts/{id}/continue", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "done", body = RolloutView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json"),
              (status = 400, description = "it neither stopped nor pauses", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn go_on(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Result<Json<RolloutView>, Trouble> {
    Ok(Json(api.app.continue_rollout(&caller, &known(&id)?).await?))
}
