//! Request bodies: bounded in size and time, JSON, with the path of what is wrong.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::App;
use super::error::ApiError;

/// A body over the limit is read and thrown away up to this many times the limit. A client that is still sending would
/// otherwise see its connection reset instead of the reply.
const DRAIN_FACTOR: usize = 8;

/// A request body, parsed.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<std::sync::Arc<App>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &std::sync::Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(ApiError::NotJson);
        }
        let limit = app.settings.max_body_bytes;
        if waits_for_a_go(&parts.headers) && announced(&parts.headers).is_some_and(|bytes| bytes > limit) {
            return Err(ApiError::BodyTooLarge);
        }
        let bytes = read(body, limit, Instant::now() + app.settings.body_timeout()).await?;
        parse(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The client sends its body only after the server has begun to read it.
fn waits_for_a_go(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn read(body: Body, limit: usize, deadline: Instant) -> Result<Vec<u8>, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut total = 0_usize;
    while total <= limit.saturating_mul(DRAIN_FACTOR) {
        match timeout_at(deadline, chunks.next()).await {
            Ok(Some(Ok(chunk))) => {
                total = total.saturating_add(chunk.len());
                if total <= limit {
                    bytes.extend_from_slice(&chunk);
                }
            }
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "a request body broke off");
                return Err(ApiError::Syntax("the request body broke off".to_owned()));
            }
            Err(_) if total <= limit => return Err(ApiError::BodyTimeout),
            Ok(None) | Err(_) => break,
        }
    }
    if total > limit { Err(ApiError::BodyTooLarge) } else { Ok(bytes) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let syntax = |error: &serde_json::Error| ApiError::Syntax(format!("the body is not valid JSON: {error}"));
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        match error.inner().classify() {
            Category::Data => wrong(&error),
            _ => syntax(error.inner()),
        }
    })?;
    deserializer.end().map_err(|error| syntax(&error))?;
    Ok(parsed)
}

/// Fields of a body that were set aside when it was parsed.
///
/// # Errors
/// As for the body: the path of what is wrong.
pub fn parse_fields<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| wrong(&error))
}

/// JSON that is not what it should be.
fn wrong(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let (path, message) = (error.path().to_string(), error.inner().to_string());
    let param = Some(path).filter(|path| path != ".");
    // serde_json tells a wrong value from a wrong type only in its text.
    let value =
        ["invalid value", "unknown field", "unknown variant"].iter().any(|start| message.starts_with(start));
    match param {
        Some(param) if value => ApiError::Invalid { param, message },
        Some(param) => ApiError::WrongType { message: format!("{param}: {message}"), param: Some(param) },
        None => ApiError::WrongType { param: None, message },
    }
}
