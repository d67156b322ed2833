//! Secrets: ciphertext in, ciphertext out.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use lictor_proto::api::{Page, Problem, SecretDocument, SecretView};
use lictor_proto::{Envelope, limits};

use super::Api;
use super::auth::Auth;
use super::page::{PageQuery, encode, known, read_text};
use super::problem::Trouble;

type Reply<T> = Result<T, Trouble>;

/// Keep a new version of a secret. Its value was sealed to nodes before it was signed; the hub cannot read it.
#[utoipa::path(post, path = "/api/v1/secrets", tag = "secrets",
    request_body = Envelope,
    responses((status = 201, description = "done", body = SecretView), (status = 409, description = "there is this version or a higher one", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    body: Body,
) -> Reply<(StatusCode, Json<SecretView>)> {
    let wire = read_text(body, limits::ENVELOPE).await?;
    let stored = api.app.put_secret(&caller, wire).await?;
    Ok((StatusCode::CREATED, Json(stored)))
}

/// The newest version of each secret, without the documents.
#[utoipa::path(get, operation_id = "list_secrets", path = "/api/v1/secrets", tag = "secrets",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<SecretView>)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<PageQuery>,
) -> Reply<Json<Page<SecretView>>> {
    let items = api
        .app
        .list_secrets(&caller, query.after()?, query.limit())
        .await?;
    let full = items.len() == query.limit() as usize;
    let next_cursor = items.last().filter(|_| full).map(|s| encode(&s.name));
    Ok(Json(Page { items, next_cursor }))
}

/// The newest version of one secret with its signed document; the document of one that was removed is `null`.
#[utoipa::path(get, operation_id = "get_secret", path = "/api/v1/secrets/{name}", tag = "secrets", params(("name" = String, Path)),
    responses((status = 200, description = "done", body = SecretDocument), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(name): Path<String>,
) -> Reply<Json<SecretDocument>> {
    Ok(Json(api.app.secret(&caller, &known(&name)?).await?))
}

/// Delete every version that the hub has. Whoever has copied one keeps it; only a new value makes the old one worthless.
#[utoipa::path(delete, path = "/api/v1/secrets/{name}", tag = "secrets", params(("name" = String, Path)),
    responses((status = 204, description = "deleted"), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    api.app.remove_secret(&caller, &known(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
