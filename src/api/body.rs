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
    let (path, message) = (error.path().to_string(), plain(error.inner()));
    let param = Some(path).filter(|path| path != ".");
    // serde_json tells a wrong value from a wrong type only in its text.
    let value =
        ["invalid value", "unknown field", "unknown value"].iter().any(|start| message.starts_with(start));
    match param {
        Some(param) if value => ApiError::Invalid { param, message },
        Some(param) => ApiError::WrongType { message: format!("{param}: {message}"), param: Some(param) },
        None => ApiError::WrongType { param: None, message },
    }
}

/// What serde_json says, in words of JSON instead of Rust's, and without the place in the text: the path is told.
fn plain(error: &serde_json::Error) -> String {
    let mut message = error.to_string();
    // Line 0: it was read from a value, which may hold such words.
    if error.line() > 0 {
        message.truncate(message.rfind(" at line ").unwrap_or(message.len()));
    }
    let message = match message.strip_prefix("unknown variant") {
        Some(rest) => format!("unknown value{rest}"),
        None => message,
    };
    let kinds = [(["i64", "u64", "u32"].as_slice(), "a whole number"), (&["f64", "f32"], "a number")];
    for (kind, name) in kinds.iter().flat_map(|(kinds, name)| kinds.iter().map(move |kind| (kind, name))) {
        if let Some(rest) = message.strip_suffix(&format!("expected {kind}")) {
            return format!("{rest}expected {name}");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_told_in_words_of_json() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only whether it can be read is asked")]
        struct Body {
            count: Option<i64>,
            share: Option<f64>,
            way: Option<Way>,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Way {
            Here,
        }
        for (body, message) in [
            (r#"{"count": "a"}"#, "count: invalid type: string \"a\", expected a whole number"),
            (r#"{"share": [1]}"#, "share: invalid type: sequence, expected a number"),
            (r#"{"way": "there"}"#, "way: unknown value `there`, expected `here`"),
        ] {
            let told = parse::<Body>(body.as_bytes()).unwrap_err().reply().1.error.message;
            assert_eq!(told, message);
        }
        let fields = serde_json::json!({"count": "met at line 5"}).as_object().cloned().unwrap();
        let told = parse_fields::<Body>(fields).unwrap_err().reply().1.error.message;
        assert_eq!(told, "count: invalid type: string \"met at line 5\", expected a whole number");
    }
}
