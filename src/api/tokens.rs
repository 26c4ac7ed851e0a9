//! `POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in vLLM's shape: with them a client needs no tokenizer of
//! its own.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat::{self, ChatMessage};
use super::error::{ApiError, ReadRefusals, TokenRefusals};
use super::schema::asked_speaker;
use super::{App, JsonBody};
use crate::service::{Service, Source};

/// A text or a conversation to be tokenized: exactly one of `prompt` and `messages`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// Which model or adapter; all have one tokenizer.
    pub model: Option<String>,
    /// A text.
    pub prompt: Option<String>,
    /// A conversation; the model's own chat template makes a text of it.
    #[schema(min_items = 1)]
    pub messages: Option<Vec<ChatMessage>>,
    /// Add what the tokenizer adds to a prompt. Left out: true for `prompt`, false for `messages`, whose template has it.
    pub add_special_tokens: Option<bool>,
    /// With `messages`: begin the model's turn behind the last message.
    #[schema(default = true)]
    pub add_generation_prompt: Option<bool>,
    /// With `messages`: leave the last message open. Needs `add_generation_prompt` = false.
    #[schema(default = false)]
    pub continue_final_message: Option<bool>,
    /// Name the tokens, too.
    #[schema(default = false)]
    pub return_token_strs: Option<bool>,
}

/// Token ids of a text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Tokens {
    /// How many.
    #[schema(minimum = 0)]
    pub count: usize,
    /// Most tokens of a prompt and its answer together.
    #[schema(minimum = 1)]
    pub max_model_len: usize,
    /// The token ids.
    pub tokens: Vec<u32>,
    /// The tokens as the vocabulary spells them; null unless asked for.
    #[schema(required = true)]
    pub token_strs: Option<Vec<String>>,
}

/// Token ids to be read.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// Which model or adapter; all have one tokenizer.
    pub model: Option<String>,
    /// Token ids. Must be given; may be empty.
    #[schema(required = true, nullable = false)]
    pub tokens: Option<Vec<u32>>,
}

/// The text of token ids.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Detokenized {
    /// The text, special tokens included.
    pub prompt: String,
}

/// What the model says of its tokenizer: its `tokenizer_config.json`, of which only the fields that every model has are
/// named here. Special tokens are texts; one that a model does not have is missing or null.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TokenizerInfo {
    /// The class of Hugging Face's that reads it.
    #[schema(value_type = String)]
    pub tokenizer_class: Value,
    /// The model's chat template (Jinja); null if it has none.
    #[schema(value_type = Option<String>)]
    pub chat_template: Value,
    /// Most tokens of a prompt and its answer together.
    #[schema(value_type = usize, minimum = 1)]
    pub model_max_length: Value,
    /// The token that ends a text.
    #[schema(value_type = Option<String>)]
    pub eos_token: Value,
    /// The token that stands for what is not decided yet.
    #[schema(value_type = Option<String>)]
    pub mask_token: Value,
    /// What else the file says.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Turn a text or a conversation into token ids.
#[utoipa::path(post, path = "/tokenize", tag = "Tokens", operation_id = "tokenize", security((), ("bearer" = [])),
    request_body = TokenizeRequest,
    responses((status = 200, description = "The token ids.", body = Tokens), TokenRefusals))]
pub async fn tokenize(
    State(app): State<Arc<App>>,
    JsonBody(request): JsonBody<TokenizeRequest>,
) -> Result<Json<Tokens>, ApiError> {
    let service = app.service()?;
    asked_speaker(request.model.as_deref(), service)?;
    let names = request.return_token_strs == Some(true);
    let special = request.add_special_tokens;
    let source = request.into_source()?;
    aside(service, move |service| {
        let tokens = service.tokenize(&source, special)?;
        let token_strs = names.then(|| service.token_names(&tokens));
        Ok(Tokens { count: tokens.len(), max_model_len: service.max_tokens(), tokens, token_strs })
    })
    .await
}

/// Turn token ids into text.
#[utoipa::path(post, path = "/detokenize", tag = "Tokens", operation_id = "detokenize", security((), ("bearer" = [])),
    request_body = DetokenizeRequest,
    responses((status = 200, description = "The text.", body = Detokenized), TokenRefusals))]
pub async fn detokenize(
    State(app): State<Arc<App>>,
    JsonBody(request): JsonBody<DetokenizeRequest>,
) -> Result<Json<Detokenized>, ApiError> {
    let service = app.service()?;
    asked_speaker(request.model.as_deref(), service)?;
    let tokens = request.tokens.ok_or_else(|| ApiError::invalid("tokens", "must be given"))?;
    aside(service, move |service| Ok(Detokenized { prompt: service.detokenize(&tokens)? })).await
}

/// Describe the tokenizer: chat template, special tokens and the rest of the model's `tokenizer_config.json`.
#[utoipa::path(get, path = "/tokenizer_info", tag = "Tokens", operation_id = "tokenizerInfo",
    security((), ("bearer" = [])),
    responses((status = 200, description = "The tokenizer.", body = TokenizerInfo), ReadRefusals))]
pub async fn tokenizer_info(State(app): State<Arc<App>>) -> Result<Json<TokenizerInfo>, ApiError> {
    let mut rest = app.service()?.tokenizer_config().fields().clone();
    let mut field = |name: &str| rest.remove(name).unwrap_or_default();
    Ok(Json(TokenizerInfo {
        tokenizer_class: field("tokenizer_class"),
        chat_template: field("chat_template"),
        model_max_length: field("model_max_length"),
        eos_token: field("eos_token"),
        mask_token: field("mask_token"),
        rest,
    }))
}

/// Work on a thread that may take its time: other connections must not wait for a long text.
async fn aside<T: Send + 'static>(
    service: &Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, ApiError> + Send + 'static,
) -> Result<Json<T>, ApiError> {
    let service = Arc::clone(service);
    let done = tokio::task::spawn_blocking(move || work(&service)).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a text could not be tokenized");
        Err(ApiError::Internal)
    })
    .map(Json)
}

impl TokenizeRequest {
    fn into_source(self) -> Result<Source, ApiError> {
        match (self.prompt, self.messages) {
            (Some(text), None) => Ok(Source::Text(text)),
            (None, Some(messages)) => {
                chat::conversation(messages, self.add_generation_prompt, self.continue_final_message)
                    .map(Source::Chat)
            }
            _ => Err(ApiError::invalid("prompt", "must be given, or else messages, but not both")),
        }
    }
}
