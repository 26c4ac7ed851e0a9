//! One span per request, in the trace of whoever asked.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::classify::ServerErrorsFailureClass;
use tracing::Span;
use tracing::field::Empty;

use crate::service::random;
use crate::telemetry::otlp;
use crate::telemetry::trace::TraceContext;

/// The header in which a caller says where it stands in a trace.
const PARENT: &str = "traceparent";
/// The header in which the server says where its span stands.
pub const RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// A request's span, for the layers within.
#[derive(Debug, Clone)]
struct RequestSpan(Span);

/// Begin a request's span as a child of the caller's, and say which it is.
pub async fn follow(mut request: Request, next: Next) -> Response {
    let (span, own) = begin(&request);
    request.extensions_mut().insert(RequestSpan(span));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&own.to_string()) {
        response.headers_mut().insert(RESPONSE, value);
    }
    response
}

fn begin(request: &Request) -> (Span, TraceContext) {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (method, path) = (request.method(), request.uri().path());
    let span = tracing::info_span!("request", %method, path, id, trace_id = Empty);
    let parent = parent(request.headers());
    let own = otlp::join(&span, parent).unwrap_or_else(|| unrecorded(parent));
    span.record("trace_id", format!("{:032x}", own.trace_id));
    (span, own)
}

/// The span that [`follow`] began.
pub fn of(request: &Request) -> Span {
    request.extensions().get().map_or_else(Span::none, |RequestSpan(span)| span.clone())
}

/// Log a 5xx reply. A 503 is what probes get while a model loads or a server drains: nothing is wrong then.
pub fn failed(class: ServerErrorsFailureClass, latency: Duration, _: &Span) {
    let latency_ms = latency.as_millis();
    match class {
        ServerErrorsFailureClass::StatusCode(StatusCode::SERVICE_UNAVAILABLE) => {}
        class => tracing::error!(%class, latency_ms, "a request failed"),
    }
}

/// What the caller says, if it says one thing.
fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(PARENT).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    TraceContext::parse(value.to_str().ok()?)
}

/// A span of which nobody is told: in the caller's trace, or in a new one.
fn unrecorded(parent: Option<TraceContext>) -> TraceContext {
    let fresh = || u128::from(random()) << 64 | u128::from(random());
    // Ids are not 0.
    let trace_id = parent.map_or_else(|| fresh() | 1, |parent| parent.trace_id);
    TraceContext { trace_id, span_id: random() | 1, flags: 0 }
}
