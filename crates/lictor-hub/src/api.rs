//! The HTTP API: every route, what it needs, and how answers look. What it does is in `app`.
//!
//! # Invariants
//! - Every route is in the OpenAPI document, because there is no other way to register one.
//! - Every handler but health, readiness, metrics and the document itself takes a [`auth::Auth`] or a
//!   [`auth::NodeAuth`]; a test walks the document and holds it.
//! - Every body is bounded where it is read.

mod agent;
mod auth;
mod jobs;
mod nodes;
mod notify;
mod page;
pub mod problem;
mod rollouts;
mod schedules;
mod secrets;
mod service;
mod streams;
mod trust;

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::link::poll::PollBook;

pub use auth::LinkKey;

/// What handlers share.
pub struct Api {
    /// The hub.
    pub app: Arc<App>,
    /// Nodes that poll.
    pub polls: PollBook,
    /// Renders the metrics, when a recorder is installed.
    pub metrics: Option<metrics_exporter_prometheus::PrometheusHandle>,
    document: OpenApi,
    refusals: auth::Refusals,
}

/// Every route and the document that describes them, from one list.
fn routes() -> OpenApiRouter<Arc<Api>> {
    let info = InfoBuilder::new()
        .title("Lictor hub")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "What is signed travels as the signed envelope itself. Errors are problem details (RFC 9457).",
        ))
        .build();
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build())
        .routes(routes!(jobs::submit, jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::documents))
        .routes(routes!(jobs::input))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::approve_job))
        .routes(routes!(jobs::release))
        .routes(routes!(jobs::remark))
        .routes(routes!(jobs::approvals, jobs::approve))
        .routes(routes!(rollouts::submit))
        .routes(routes!(rollouts::get))
        .routes(routes!(rollouts::go_on))
        .routes(routes!(schedules::submit, schedules::list))
        .routes(routes!(schedules::firings))
        .routes(routes!(jobs::put_blob))
        .routes(routes!(streams::stream))
        .routes(routes!(streams::output))
        .routes(routes!(streams::follow_each))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get))
        .routes(routes!(nodes::put_grant, nodes::grants))
        .routes(routes!(trust::get, trust::push))
        .routes(routes!(trust::audit))
        .routes(routes!(trust::tokens, trust::new_token))
        .routes(routes!(trust::delete_token))
        .routes(routes!(secrets::put, secrets::list))
        .routes(routes!(secrets::get, secrets::delete))
        .routes(routes!(notify::put, notify::list))
        .routes(routes!(notify::delete))
        .routes(routes!(notify::test))
        .routes(routes!(agent::grant))
        .routes(routes!(agent::enroll))
        .routes(routes!(agent::link))
        .routes(routes!(agent::heartbeat))
        .routes(routes!(agent::next))
        .routes(routes!(agent::answers))
        .routes(routes!(agent::started))
        .routes(routes!(agent::renew))
        .routes(routes!(agent::log))
        .routes(routes!(agent::result))
        .routes(routes!(service::health))
        .routes(routes!(service::ready))
        .routes(routes!(service::metrics))
        .routes(routes!(service::document))
}

/// The document alone.
#[must_use]
pub fn document() -> OpenApi {
    routes().into_openapi()
}

/// The router over a hub.
pub fn router(app: Arc<App>, metrics: Option<metrics_exporter_prometheus::PrometheusHandle>) -> Router {
    let (router, document) = routes().split_for_parts();
    let api = Arc::new(Api {
        app,
        polls: PollBook::default(),
        metrics,
        document,
        refusals: auth::Refusals::default(),
    });
    router
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(axum::middleware::from_fn_with_state(api.clone(), problem::frame))
        .with_state(api)
}
