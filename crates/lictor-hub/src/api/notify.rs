//! Notifications: who is told of what.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use lictor_proto::api::{CreatedNotifyTarget, NewNotifyTarget, NotifyTargetView, Problem};
use lictor_proto::limits;

use super::Api;
use super::auth::Auth;
use super::page::read_json;
use super::problem::Trouble;

type Reply<T> = Result<T, Trouble>;

/// Have a webhook or an e-mail address told. The secret that a webhook's notifications are signed with is in this answer only.
#[utoipa::path(post, operation_id = "new_notify_target", path = "/api/v1/notify", tag = "notify",
    request_body = NewNotifyTarget,
    responses((status = 201, description = "done", body = CreatedNotifyTarget), (status = 400, description = "an address that may not be told", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    body: Body,
) -> Reply<(StatusCode, Json<CreatedNotifyTarget>)> {
    let new: NewNotifyTarget = read_json(body, limits::API_BODY).await?;
    let created = api.app.put_notify_target(&caller, new).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Who is told, what waits, and why the last one did not arrive.
#[utoipa::path(get, operation_id = "list_notify_targets", path = "/api/v1/notify", tag = "notify",
    responses((status = 200, description = "all of them, 50 at most", body = Vec<NotifyTargetView>)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
) -> Reply<Json<Vec<NotifyTargetView>>> {
    Ok(Json(api.app.notify_targets(&caller).await?))
}

/// Tell a target nothing any more, not even what waits for it.
#[utoipa::path(delete, operation_id = "delete_notify_target", path = "/api/v1/notify/{id}", tag = "notify", params(("id" = String, Path)),
    responses((status = 204, description = "deleted"), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Reply<StatusCode> {
    api.app.delete_notify_target(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a test to a target; the listing says whether it arrived.
#[utoipa::path(post, operation_id = "test_notify_target", path = "/api/v1/notify/{id}/test", tag = "notify", params(("id" = String, Path)),
    responses((status = 202, description = "on its way"), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json"),
              (status = 429, description = "one was sent just now; `Retry-After` says when to come again", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn test(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Reply<StatusCode> {
    api.app.test_notify_target(&caller, &id).await?;
    Ok(StatusCode::ACCEPTED)
}
