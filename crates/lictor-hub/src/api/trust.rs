//! Law, tokens, audit.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use lictor_proto::agent::LawDocs;
use lictor_proto::api::{
    AuditLine, CreatedToken, NewToken, Page, Problem, TokenView, TrustPushed, TrustView,
};
use lictor_proto::limits;

use super::Api;
use super::auth::Auth;
use super::page::{PageQuery, encode, read_json};
use super::problem::Trouble;

type Reply<T> = Result<T, Trouble>;

/// All law of the org: roots from version 1, the newest bundle and freshness statement, all revocations.
#[utoipa::path(get, operation_id = "get_trust", path = "/api/v1/trust", tag = "trust", responses((status = 200, description = "done", body = TrustView)))]
pub(super) async fn get(State(api): State<Arc<Api>>, Auth(caller): Auth) -> Reply<Json<TrustView>> {
    Ok(Json(api.app.law(&caller)?))
}

/// Push newer law. What is refused is in the answer, with its code.
#[utoipa::path(post, path = "/api/v1/trust", tag = "trust",
    request_body = LawDocs,
    responses((status = 200, description = "done", body = TrustPushed)))]
pub(super) async fn push(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    body: Body,
) -> Reply<Json<TrustPushed>> {
    let docs: LawDocs = read_json(body, limits::ASK).await?;
    Ok(Json(api.app.push_law(&caller, &docs).await?))
}

/// The org's part of the hub's audit log, oldest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "trust",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<AuditLine>)))]
pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<PageQuery>,
) -> Reply<Json<Page<AuditLine>>> {
    let after = query.after()?.unwrap_or(0);
    let items = api.app.audit(&caller, after, query.limit()).await?;
    let full = items.len() == query.limit() as usize;
    let next_cursor = items.last().filter(|_| full).map(|l| encode(&l.seq));
    Ok(Json(Page { items, next_cursor }))
}

/// The org's API tokens, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<TokenView>)))]
pub(super) async fn tokens(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<PageQuery>,
) -> Reply<Json<Page<TokenView>>> {
    let items = api
        .app
        .list_tokens(&caller, query.after()?, query.limit())
        .await?;
    let full = items.len() == query.limit() as usize;
    let next_cursor = items.last().filter(|_| full).map(|t| encode(&t.token_id));
    Ok(Json(Page { items, next_cursor }))
}

/// Make an API token; its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens",
    request_body = NewToken,
    responses((status = 201, description = "done", body = CreatedToken)))]
pub(super) async fn new_token(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    body: Body,
) -> Reply<(StatusCode, Json<CreatedToken>)> {
    let new: NewToken = read_json(body, limits::API_BODY).await?;
    let created = api.app.new_token(&caller, &new).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Delete an API token; it is worthless from the answer on.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204, description = "deleted"), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete_token(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Reply<StatusCode> {
    api.app.delete_token(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
