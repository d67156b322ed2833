//! Nodes and grants, as people see them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use lictor_proto::agent::Wire;
use lictor_proto::api::{NodeView, Page, Problem};
use lictor_proto::{Envelope, NodeId, limits};

use super::Api;
use super::auth::Auth;
use super::page::{PageQuery, encode, known, read_text};
use super::problem::Trouble;

type Reply<T> = Result<T, Trouble>;

/// Nodes, with the documents that prove them.
#[utoipa::path(get, operation_id = "list_nodes", path = "/api/v1/nodes", tag = "nodes",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = Page<NodeView>)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<PageQuery>,
) -> Reply<Json<Page<NodeView>>> {
    let after: Option<NodeId> = query.after()?;
    let items = api.app.list_nodes(&caller, after, query.limit()).await?;
    let full = items.len() == query.limit() as usize;
    let next_cursor = items.last().filter(|_| full).map(|n| encode(&n.node_id));
    Ok(Json(Page { items, next_cursor }))
}

/// One node, with the documents that prove it.
#[utoipa::path(get, operation_id = "get_node", path = "/api/v1/nodes/{id}", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, description = "done", body = NodeView), (status = 404, description = "not found", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Path(id): Path<String>,
) -> Reply<Json<NodeView>> {
    Ok(Json(api.app.node(&caller, &known(&id)?).await?))
}

/// Hand in a signed grant, so that a machine with its token can enrol.
#[utoipa::path(post, path = "/api/v1/grants", tag = "nodes",
    request_body(content = Envelope, content_type = "application/json", description = "the signed grant (DSSE envelope)"),
    responses((status = 201, description = "the grant's digest"), (status = 422, description = "refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put_grant(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    body: Body,
) -> Reply<(StatusCode, Json<serde_json::Value>)> {
    let wire = read_text(body, limits::ENVELOPE).await?;
    let digest = api.app.put_grant(&caller, &wire).await?;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "digest": digest }))))
}

/// Signed grants.
#[utoipa::path(get, path = "/api/v1/grants", tag = "nodes",
    params(("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, description = "a page of signed grants", body = Page<Wire>)))]
pub(super) async fn grants(
    State(api): State<Arc<Api>>,
    Auth(caller): Auth,
    Query(query): Query<PageQuery>,
) -> Reply<Json<Page<Wire>>> {
    let rows = api
        .app
        .list_grants(&caller, query.after()?, query.limit())
        .await?;
    let full = rows.len() == query.limit() as usize;
    let next_cursor = rows.last().filter(|_| full).map(|(digest, _)| encode(digest));
    Ok(Json(Page {
        items: rows.into_iter().map(|(_, wire)| wire).collect(),
        next_cursor,
    }))
}
