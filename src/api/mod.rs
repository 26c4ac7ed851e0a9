//! The HTTP side: OpenAI's API, to the field, and what operators need.

pub mod adapters;
pub mod answer;
pub mod auth;
pub mod body;
pub mod chat;
pub mod completion;
pub mod error;
pub mod event;
mod examples;
pub mod generation;
pub mod guided;
pub mod logprobs;
pub mod models;
pub mod ops;
pub mod parameters;
mod playground;
pub mod progress;
pub mod schema;
pub mod serve;
mod spans;
pub mod sse;
mod stall;
pub mod tokens;
pub mod turn;

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::Level;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

pub use body::JsonBody;

use crate::config::ServerSettings;
use crate::service::Service;
use crate::telemetry::Metrics;
use error::ApiError;

/// What all handlers share.
#[derive(Debug)]
pub struct App {
    settings: ServerSettings,
    metrics: Arc<Metrics>,
    service: OnceLock<Arc<Service>>,
    retiring: AtomicBool,
    draining: AtomicBool,
}

impl App {
    /// A server without a model yet: alive, not ready.
    pub fn new(settings: ServerSettings, metrics: Arc<Metrics>) -> Self {
        let (retiring, draining) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { settings, metrics, service: OnceLock::new(), retiring, draining }
    }

    /// The model is loaded and warm: requests are taken from now on. Only the first call counts.
    pub fn open(&self, service: Service) {
        self.metrics.name_model(service.name());
        // A second model has nowhere to go.
        let _ = self.service.set(Arc::new(service));
    }

    /// Say to load balancers that no new requests should come; those that come all the same are taken.
    pub fn retire(&self) {
        self.retiring.store(true, Ordering::Release);
    }

    /// Take no new requests from now on; those that run go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn service(&self) -> Result<&Arc<Service>, ApiError> {
        self.service.get().ok_or(ApiError::Unavailable("the model is still loading"))
    }

    fn ready(&self) -> Result<&Arc<Service>, ApiError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(ApiError::Unavailable("the server is shutting down"));
        }
        self.service()
    }

    /// Whether load balancers should send requests.
    fn wanted(&self) -> Result<(), ApiError> {
        if self.retiring.load(Ordering::Acquire) {
            return Err(ApiError::Unavailable("the server is shutting down"));
        }
        self.ready().map(drop)
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "evotoken",
    description = "OpenAI-compatible server for masked diffusion language models, with EvoToken decoding."
))]
struct Description;

fn described(app: &Arc<App>) -> OpenApiRouter<Arc<App>> {
    let v1 = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(completion::complete))
        .routes(routes!(chat::complete))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize))
        .routes(routes!(tokens::tokenizer_info))
        .routes(routes!(models::list))
        .routes(routes!(models::describe))
        .route("/v1/models/{model}/{*rest}", get(models::describe_path))
        .routes(routes!(adapters::load))
        .routes(routes!(adapters::unload))
        .route_layer(from_fn_with_state(Arc::clone(app), auth::check));
    v1.routes(routes!(ops::health)).routes(routes!(ops::ready)).routes(routes!(ops::metrics))
}

/// The description of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let app = Arc::new(App::new(ServerSettings::default(), Arc::new(Metrics::new())));
    let mut api = described(&app).into_openapi();
    let components = api.components.get_or_insert_default();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.security_schemes.insert("bearer".to_owned(), bearer.into());
    examples::add(&mut api);
    api
}

/// The description of the API, as committed in `openapi.yaml`.
pub fn openapi_yaml() -> String {
    openapi().to_yaml().expect("a description is plain data")
}

/// All routes and what lies around them.
pub fn router(app: Arc<App>) -> Router {
    let (router, _) = described(&app).split_for_parts();
    let yaml = openapi_yaml();
    let description = get(async move || ([(header::CONTENT_TYPE, "application/yaml")], yaml));
    let docs = guarded(SwaggerUi::new("/docs").config(Config::from("/openapi.yaml")).into());
    let cors = cors(&app.settings.cors_origins);
    let page = if app.settings.playground { playground::routes() } else { Router::new() };
    let mut router = router
        .route("/openapi.yaml", description)
        .merge(page)
        .with_state(Arc::clone(&app))
        .merge(docs)
        .fallback(async |uri: Uri| ApiError::unknown_path(uri.path()))
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(map_response(in_our_words));
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router
        .layer(from_fn_with_state(app, ops::count))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(spans::of)
                .on_response(DefaultOnResponse::new().level(Level::INFO))
                .on_failure(spans::failed),
        )
        .layer(from_fn(spans::follow))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}

/// What a browser may do with the pages of `/docs`. They run only the scripts that come with them, ask only this server,
/// and show up in nobody else's frame; Swagger UI sets styles from its scripts.
const PAGE_HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

fn guarded(pages: Router<()>) -> Router<()> {
    PAGE_HEADERS.into_iter().fold(pages, |pages, (name, value)| {
        pages.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)))
    })
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = match origins {
        [] => return None,
        all if all.iter().any(|origin| origin == "*") => AllowOrigin::any(),
        some => AllowOrigin::list(some.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    // Whatever headers: clients add their own (OpenAI's library a dozen), and none makes a request more powerful.
    let layer = layer.allow_headers(AllowHeaders::mirror_request());
    Some(layer.expose_headers([
        HeaderName::from_static("x-request-id"),
        spans::RESPONSE,
        header::RETRY_AFTER,
    ]))
}

fn panicked(reason: Box<dyn Any + Send>) -> Response {
    let text = reason.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| reason.downcast_ref::<&str>().copied()).unwrap_or_default();
    tracing::error!(reason = text, "a handler panicked");
    ApiError::Internal.into_response()
}

/// Give every failure the body that clients know, also those that the libraries underneath made. Headers stay.
async fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == "application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let mut ours = ApiError::from_status(status).into_response();
    for (name, value) in response.headers() {
        if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
            ours.headers_mut().insert(name, value.clone());
        }
    }
    ours
}
