//! For those who run the server: health, readiness, metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ErrorBody, ErrorCode};
use crate::service::unix_seconds;

/// A short word on how the server is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok` or `ready`.
    pub status: &'static str,
}

/// Whether the process is alive.
#[utoipa::path(get, path = "/health", tag = "Operations",
    responses((status = 200, description = "The process answers.", body = Status)))]
pub async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Whether requests should be sent: the model is loaded and warmed up, and the server is not shutting down.
#[utoipa::path(get, path = "/ready", tag = "Operations", responses(
    (status = 200, description = "Requests are welcome.", body = Status),
    (status = 503, description = "The model is loading, or the server is shutting down.", body = ErrorBody)))]
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Status>, ApiError> {
    app.wanted()?;
    Ok(Json(Status { status: "ready" }))
}

/// Numbers for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "Operations", responses(
    (status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    if let Ok(service) = app.service() {
        let adapters = service.adapters();
        let busy = adapters.iter().filter(|adapter| adapter.variant.is_busy());
        let busy: Vec<String> = busy.map(|adapter| adapter.name.clone()).collect();
        app.metrics.adapters(adapters.len(), &busy, unix_seconds());
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render())
        .into_response()
}

/// Count replies by route pattern, method and status, and errors by their code.
pub async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = path.as_ref().map_or("(none)", MatchedPath::as_str);
    // A client may invent methods; the label set must not grow with them.
    let method = if method.is_safe() || method == Method::POST { method.as_str() } else { "(other)" };
    app.metrics.http_reply(route, method, response.status().as_u16());
    if let Some(ErrorCode(code)) = response.extensions().get() {
        app.metrics.http_error(code);
    }
    response
}
