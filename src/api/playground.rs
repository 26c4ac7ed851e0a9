//! `GET /`: a page on which to try the model and to watch its answers evolve. It is a client of the API like any other.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::set_header::SetResponseHeaderLayer;

use super::App;
use super::error::ApiError;

/// A file of the page, compiled in.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($name:literal, $content_type:expr) => {
        Asset {
            name: $name,
            content_type: $content_type,
            content: include_str!(concat!("../../playground/", $name)),
        }
    };
}

const PAGE: Asset = asset!("index.html", HTML);

/// What the page loads, at `/playground/NAME`.
const PARTS: [Asset; 13] = [
    asset!("style.css", CSS),
    asset!("canvas.css", CSS),
    asset!("icon.svg", SVG),
    asset!("app.js", JS),
    asset!("run.js", JS),
    asset!("api.js", JS),
    asset!("answer.js", JS),
    asset!("canvas.js", JS),
    asset!("inspector.js", JS),
    asset!("figures.js", JS),
    asset!("player.js", JS),
    asset!("settings.js", JS),
    asset!("countdown.js", JS),
];

/// What a browser may do with the page: load its own files and ask its own server, nothing else. No script and no style
/// stands in the page itself.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // A browser keeps the files, but asks whether they are those of the server that runs now.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The page's routes.
pub fn routes() -> Router<Arc<App>> {
    let routes = Router::new()
        .route("/", get(async |headers: HeaderMap| PAGE.reply(&headers)))
        .route("/playground/{name}", get(part));
    HEADERS.into_iter().fold(routes, |routes, (name, value)| {
        routes.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)))
    })
}

async fn part(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match PARTS.iter().find(|part| part.name == name) {
        Some(part) => part.reply(&headers),
        None => ApiError::UnknownPath(None).into_response(),
    }
}

impl Asset {
    /// The file, or that the client has it already.
    fn reply(&self, headers: &HeaderMap) -> Response {
        let tag = self.tag();
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let fresh = known
            .flat_map(|tags| tags.split(','))
            .map(str::trim)
            .any(|known| known == "*" || known.trim_start_matches("W/") == tag);
        if fresh {
            return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
        }
        let headers = [(header::ETAG, tag), (header::CONTENT_TYPE, self.content_type.to_owned())];
        (headers, self.content).into_response()
    }

    /// Another one for another content; it means nothing beyond that.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.content.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}
