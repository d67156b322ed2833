//! Health, readiness, metrics, the document: what anybody may ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lictor_proto::Code;
use lictor_proto::api::{Health, Problem};

use super::Api;
use super::problem::Trouble;

/// Whether the process lives.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, description = "done", body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Whether the hub takes work: its database answers and it is not shutting down.
#[utoipa::path(get, path = "/ready", tag = "service",
    responses((status = 200, description = "done", body = Health), (status = 503, description = "not ready", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<Json<Health>, Trouble> {
    if api.app.stop.is_cancelled() {
        return Err(Trouble::new(Code::Unavailable, "the hub is shutting down"));
    }
    let answers = api.app.store.ping().await;
    answers.map_err(|_| Trouble::new(Code::Unavailable, "the database does not answer"))?;
    Ok(health().await)
}

/// Metrics in the Prometheus text format. They name no org, node or person.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, description = "metrics", content_type = "text/plain")))]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    match &api.metrics {
        Some(handle) => handle.render().into_response(),
        None => (StatusCode::OK, "").into_response(),
    }
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(super) async fn document(State(api): State<Arc<Api>>) -> Response {
    Json(&api.document).into_response()
}
