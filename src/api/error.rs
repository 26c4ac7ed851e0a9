//! Everything that can go wrong, as a client sees it: one match.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::engine::request::RequestError;
use crate::engine::{SequenceError, SubmitError};
use crate::service::AskError;

/// Seconds after which a client may try again when the queue was full.
const RETRY_AFTER_S: u32 = 1;

/// What a client that is at a wrong path may want to know.
const OFFERED: &str = "this server answers POST /v1/completions, /v1/chat/completions, /tokenize, /detokenize and \
                       GET /v1/models, /tokenizer_info; /docs shows the API";

/// Paths of OpenAI's API, each with all below it, that are not there, and why.
const NOT_OFFERED: [(&[&str], &str); 5] = [
    (&["/v1/embeddings"], "the models served here make no embeddings"),
    (
        &["/v1/responses", "/v1/conversations"],
        "nothing is stored here: /v1/chat/completions takes the whole conversation",
    ),
    (
        &["/v1/assistants", "/v1/threads", "/v1/files", "/v1/uploads", "/v1/batches", "/v1/vector_stores"],
        "nothing is stored here",
    ),
    (
        &["/v1/audio", "/v1/images", "/v1/videos", "/v1/realtime", "/v1/moderations"],
        "the models served here read and write text only",
    ),
    (
        &["/v1/fine_tuning", "/v1/evals"],
        "models are trained and evaluated by the program `trainer`, not over HTTP",
    ),
];

/// A request that gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// The body is not JSON.
    Syntax(String),
    /// A parameter (its path, unless it is the body as a whole) is of the wrong type.
    WrongType {
        /// `diffusion.steps`.
        param: Option<String>,
        /// What was expected and found.
        message: String,
    },
    /// A parameter has an unusable value.
    Invalid {
        /// `diffusion.steps`.
        param: String,
        /// What is wrong with it.
        message: String,
    },
    /// A parameter of OpenAI's that this server cannot honor.
    Unsupported {
        /// `messages[0].role`.
        param: String,
        /// Why it cannot.
        reason: &'static str,
    },
    /// Prompt and answer do not fit.
    TooLong(String),
    /// No API key, or a wrong one.
    InvalidKey,
    /// A model that is not served.
    UnknownModel(String),
    /// An adapter that is not loaded, or a folder that holds none.
    UnknownAdapter {
        /// `lora_name` or `lora_path`.
        param: &'static str,
        /// Which.
        message: String,
    },
    /// Nothing is at this path; why, if that is known.
    UnknownPath(Option<&'static str>),
    /// The path does not take this method.
    WrongMethod,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is larger than the server takes.
    BodyTooLarge,
    /// The content type is not JSON.
    NotJson,
    /// No place in the queue.
    QueueFull,
    /// Not ready, shutting down, or out of memory.
    Unavailable(&'static str),
    /// The answer took too long.
    Timeout,
    /// The server's fault; the log says more.
    Internal,
}

/// The body of every reply that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path of the parameter at fault, such as `diffusion.steps`.
    #[schema(required = true)]
    pub param: Option<String>,
    /// For programs, such as `context_length_exceeded`.
    #[schema(required = true)]
    pub code: Option<&'static str>,
}

/// The refusals of routes that only read, for the API's description.
#[derive(Debug, IntoResponses)]
pub enum ReadRefusals {
    /// An API key is asked for, and none or a wrong one came.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The model is still loading.
    #[response(status = 503)]
    ServiceUnavailable(ErrorBody),
}

/// The refusals of the route that describes a model, for the API's description.
#[derive(Debug, IntoResponses)]
pub enum ModelRefusals {
    /// The model's id in the path is no UTF-8.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// An API key is asked for, and none or a wrong one came.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The model does not exist.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The model is still loading.
    #[response(status = 503)]
    ServiceUnavailable(ErrorBody),
}

/// The refusals of routes that tokenize or change what is served, for the API's description.
#[derive(Debug, IntoResponses)]
pub enum TokenRefusals {
    /// The JSON, the type or the value of a parameter is wrong.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// An API key is asked for, and none or a wrong one came.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The model, the adapter or the path does not exist.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    RequestTimeout(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    PayloadTooLarge(ErrorBody),
    /// The content type is not JSON.
    #[response(status = 415)]
    UnsupportedMediaType(ErrorBody),
    /// The server's fault.
    #[response(status = 500)]
    InternalServerError(ErrorBody),
    /// The model is still loading.
    #[response(status = 503)]
    ServiceUnavailable(ErrorBody),
}

/// The refusals of routes that generate, for the API's description.
#[derive(Debug, IntoResponses)]
pub enum Refusals {
    /// The JSON, the type or the value of a parameter is wrong, or a known parameter is not supported.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// An API key is asked for, and none or a wrong one came.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The model or the path does not exist.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    RequestTimeout(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    PayloadTooLarge(ErrorBody),
    /// The content type is not JSON.
    #[response(status = 415)]
    UnsupportedMediaType(ErrorBody),
    /// The queue is full; `Retry-After` says when to try again, in seconds.
    #[response(status = 429)]
    TooManyRequests(ErrorBody),
    /// The server's fault.
    #[response(status = 500)]
    InternalServerError(ErrorBody),
    /// Not ready, shutting down, or out of memory.
    #[response(status = 503)]
    ServiceUnavailable(ErrorBody),
    /// The answer took longer than the server allows.
    #[response(status = 504)]
    GatewayTimeout(ErrorBody),
}

impl ApiError {
    /// A parameter with an unusable value.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { param: param.into(), message: message.into() }
    }

    /// Nothing is at this path.
    pub fn unknown_path(path: &str) -> Self {
        let is_below =
            |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let known = NOT_OFFERED.iter().find(|(roots, _)| roots.iter().any(|root| is_below(root)));
        Self::UnknownPath(known.map(|(_, reason)| *reason))
    }

    /// What a status without a body of ours means: replies of the libraries underneath.
    pub fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::UnknownPath(None),
            StatusCode::METHOD_NOT_ALLOWED => Self::WrongMethod,
            StatusCode::REQUEST_TIMEOUT => Self::BodyTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::NotJson,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable("the server cannot answer at the moment"),
            StatusCode::GATEWAY_TIMEOUT => Self::Timeout,
            other if other.is_client_error() => Self::Syntax("the request cannot be understood".to_owned()),
            _ => Self::Internal,
        }
    }

    /// Status and body.
    pub fn reply(&self) -> (StatusCode, ErrorBody) {
        const CLIENT: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        let text = |message: &str| message.to_owned();
        let (status, kind, param, code, message) = match self {
            Self::Syntax(message) => (400, CLIENT, None, None, message.clone()),
            Self::WrongType { param, message } => (400, CLIENT, param.clone(), None, message.clone()),
            Self::Invalid { param, message } => {
                (400, CLIENT, Some(param.clone()), Some("invalid_value"), format!("{param}: {message}"))
            }
            Self::Unsupported { param, reason } => {
                let message = format!("{param} is not supported: {reason}");
                (400, CLIENT, Some(param.clone()), Some("unsupported_parameter"), message)
            }
            Self::TooLong(message) => (400, CLIENT, None, Some("context_length_exceeded"), message.clone()),
            Self::InvalidKey => {
                let message = "a valid API key is needed: send \"Authorization: Bearer KEY\"";
                (401, CLIENT, None, Some("invalid_api_key"), text(message))
            }
            Self::UnknownModel(name) => {
                let message = format!("the model {name:?} does not exist; GET /v1/models lists what does");
                (404, CLIENT, Some(text("model")), Some("model_not_found"), message)
            }
            Self::UnknownAdapter { param, message } => {
                (404, CLIENT, Some(text(param)), Some("model_not_found"), message.clone())
            }
            Self::UnknownPath(reason) => {
                let reason = reason.unwrap_or("nothing is at this path");
                (404, CLIENT, None, None, format!("{reason}; {OFFERED}"))
            }
            Self::WrongMethod => (405, CLIENT, None, None, text("this path does not take this method")),
            Self::BodyTimeout => {
                (408, CLIENT, None, Some("timeout"), text("the request body did not arrive in time"))
            }
            Self::BodyTooLarge => {
                (413, CLIENT, None, None, text("the request body is larger than this server takes"))
            }
            Self::NotJson => (415, CLIENT, None, None, text("the content type must be application/json")),
            Self::QueueFull => {
                (429, "rate_limit_error", None, Some("overloaded"), text("the queue is full; try again"))
            }
            Self::Unavailable(message) => (503, SERVER, None, Some("service_unavailable"), text(message)),
            Self::Timeout => {
                (504, SERVER, None, Some("timeout"), text("the answer took longer than allowed"))
            }
            Self::Internal => {
                (500, SERVER, None, Some("internal_error"), text("the server failed on this request"))
            }
        };
        let status = StatusCode::from_u16(status).expect("the table holds valid statuses");
        (status, ErrorBody { error: ErrorDetail { message, kind, param, code } })
    }
}

/// Lies on every error's response, for those who count: the code in its body, or its type where it has none.
#[derive(Debug, Clone, Copy)]
pub struct ErrorCode(pub &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, body) = self.reply();
        let code = ErrorCode(body.error.code.unwrap_or(body.error.kind));
        let mut response = (status, Json(body)).into_response();
        response.extensions_mut().insert(code);
        match self {
            Self::QueueFull => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
            }
            Self::InvalidKey => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Invalid { param, message } => Self::Invalid { param, message },
            RequestError::TooLong { message } => Self::TooLong(message),
        }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Request(error) => error.into(),
            AskError::Submit(SubmitError::QueueFull { .. }) => Self::QueueFull,
            AskError::Submit(error @ SubmitError::NeverFits { .. }) => {
                Self::TooLong(format!("the request {error}"))
            }
            AskError::Submit(SubmitError::Stopping) => SequenceError::Stopping.into(),
        }
    }
}

impl From<SequenceError> for ApiError {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::Backend => Self::Internal,
            SequenceError::OutOfMemory => Self::Unavailable("no memory for this request at the moment"),
            SequenceError::Stopping => Self::Unavailable("the server is shutting down"),
            SequenceError::Timeout => Self::Timeout,
        }
    }
}
