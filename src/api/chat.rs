//! `POST /v1/chat/completions`.

use std::mem::take;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::answer::{self, Head};
use super::error::{ApiError, Refusals};
use super::event::StreamEvent;
use super::generation::{GenerationOptions, Own};
use super::schema::count;
use super::turn::{ChatCompletion, ChatCompletionChunk, Turns};
use super::{App, JsonBody, logprobs, parameters};
use crate::service::{Chat, Prompts};
use crate::text::chat_template::{Ending, Message};

/// What is said in a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of text parts")]
pub enum Content {
    /// One text.
    Text(String),
    /// Several texts; a line break goes between them.
    Parts(Vec<ContentPart>),
}

/// A part of what is said.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
pub struct ContentPart {
    /// Only `text`.
    #[serde(rename = "type")]
    #[schema(pattern = "^text$")]
    pub kind: String,
    /// The text.
    #[schema(required = true, nullable = false)]
    pub text: Option<String>,
}

/// One turn of the conversation.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer` (the same), `user` or `assistant`.
    #[schema(required = true, nullable = false, pattern = "^(system|developer|user|assistant)$")]
    pub role: Option<String>,
    /// What is said. Must be given.
    #[schema(required = true, nullable = false)]
    pub content: Option<Content>,
}

/// A request for the next turn of a conversation.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ChatCompletionRequest {
    /// The conversation so far, at least one message; the model's own chat template makes a prompt of it.
    #[schema(required = true, nullable = false, min_items = 1)]
    pub messages: Option<Vec<ChatMessage>>,
    /// Room for each answer, in tokens. Left out: what the model recommends, else as much as fits, up to 256.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`, which goes before it.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Report the log-probability of every token of the text.
    #[schema(default = false)]
    pub logprobs: Option<bool>,
    /// With `logprobs`: and so many of the most probable tokens in its place.
    #[schema(minimum = 0, maximum = 20, default = 0)]
    pub top_logprobs: Option<i64>,
    /// Begin the model's turn behind the last message.
    #[schema(default = true)]
    pub add_generation_prompt: Option<bool>,
    /// Leave the last message open, so that the answer goes on where it ends. Needs `add_generation_prompt` = false.
    #[schema(default = false)]
    pub continue_final_message: Option<bool>,
    /// What every request that generates may say.
    #[serde(flatten)]
    #[schema(value_type = GenerationOptions)]
    pub options: Map<String, Value>,
}

/// An event of a stream of this endpoint.
type ChatEvent = StreamEvent<ChatCompletionChunk>;

/// Continue a conversation. With `stream` the reply is a stream of server-sent events: per answer one chunk with the role,
/// one per finished block, one with `finish_reason`; then one with `usage` if asked for, then `[DONE]`. An error after the
/// first event is an event with the error body, and no `[DONE]` follows.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", operation_id = "createChatCompletion",
    security((), ("bearer" = [])), request_body = ChatCompletionRequest, responses(
    (status = 200, description = "The model's turns.",
     content((ChatCompletion = "application/json"), (ChatEvent = "text/event-stream"))),
    Refusals))]
pub async fn complete(
    State(app): State<Arc<App>>,
    JsonBody(mut request): JsonBody<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let service = Arc::clone(app.ready()?);
    let options = GenerationOptions::parse(take(&mut request.options))?;
    let speaker = options.speaker(&service, &parameters::CHAT)?;
    let delivery = options.delivery()?;
    let newer = request.max_completion_tokens.is_some();
    let own = request.own(options.choices()?)?;
    let ask = options.into_ask(speaker, own)?;
    let shape = Turns { head: Head::new("chatcmpl", &ask.speaker), scored: ask.sampling.logprobs.is_some() };
    answer::reply(service, ask, delivery, shape).await.map_err(|error| in_chat_s_words(error, newer))
}

/// Below this layer all requests have a `prompt` and `max_tokens`.
fn in_chat_s_words(error: ApiError, newer: bool) -> ApiError {
    match error {
        ApiError::Invalid { param, message } => {
            let param = match param.as_str() {
                "prompt" => "messages".to_owned(),
                "max_tokens" if newer => "max_completion_tokens".to_owned(),
                _ => param,
            };
            ApiError::Invalid { param, message }
        }
        other => other,
    }
}

/// A conversation as a client sends it.
///
/// # Errors
/// The first message that is unusable or unsupported, by its path, or an ending that contradicts itself.
pub fn conversation(
    messages: Vec<ChatMessage>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
) -> Result<Chat, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "must hold at least one message"));
    }
    let ending = match (add_generation_prompt.unwrap_or(true), continue_final_message) {
        (true, Some(true)) => {
            let message = "needs add_generation_prompt = false: one turn cannot be open and another begin";
            return Err(ApiError::invalid("continue_final_message", message));
        }
        (false, Some(true)) => Ending::Open,
        (true, _) => Ending::NextTurn,
        (false, _) => Ending::Closed,
    };
    let messages = messages.into_iter().enumerate().map(|(at, message)| message.into_message(at));
    Ok(Chat { messages: messages.collect::<Result<_, _>>()?, ending })
}

impl ChatCompletionRequest {
    fn own(self, choices: usize) -> Result<Own, ApiError> {
        let messages = self.messages.ok_or_else(|| ApiError::invalid("messages", "must be given"))?;
        let chat = conversation(messages, self.add_generation_prompt, self.continue_final_message)?;
        let top = logprobs::alternatives("top_logprobs", self.top_logprobs, logprobs::CHAT_ALTERNATIVES)?;
        let logprobs = match (self.logprobs, top) {
            (Some(true), top) => Some(top.unwrap_or(0)),
            (_, Some(1..)) => return Err(ApiError::invalid("top_logprobs", "needs logprobs = true")),
            _ => None,
        };
        let newer = count("max_completion_tokens", self.max_completion_tokens)?;
        let older = count("max_tokens", self.max_tokens)?;
        // Where the newer name goes before it, nobody below sees it.
        if older == Some(0) {
            return Err(ApiError::invalid("max_tokens", "must be at least 1"));
        }
        Ok(Own {
            prompts: Prompts::Chat(chat),
            choices,
            max_tokens: newer.or(older),
            suffix: None,
            echo: false,
            logprobs,
        })
    }
}

impl ChatMessage {
    /// Message number `at` as templates know it.
    fn into_message(self, at: usize) -> Result<Message, ApiError> {
        let place = |field: &str| format!("messages[{at}].{field}");
        let role = match self.role.as_deref() {
            // OpenAI renamed it; no template knows the new name.
            Some("system" | "developer") => "system",
            Some("user") => "user",
            Some("assistant") => "assistant",
            Some("tool" | "function") => {
                let reason = "the models served here call no tools";
                return Err(ApiError::Unsupported { param: place("role"), reason });
            }
            _ => {
                let message = "must be `system`, `developer`, `user` or `assistant`";
                return Err(ApiError::invalid(place("role"), message));
            }
        };
        let content = match self.content {
            None => return Err(ApiError::invalid(place("content"), "must be given")),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let mut texts = Vec::with_capacity(parts.len());
                for (number, part) in parts.into_iter().enumerate() {
                    let place = |field: &str| format!("messages[{at}].content[{number}].{field}");
                    if part.kind != "text" {
                        let reason = "the models served here read text only";
                        return Err(ApiError::Unsupported { param: place("type"), reason });
                    }
                    texts.push(part.text.ok_or_else(|| ApiError::invalid(place("text"), "must be given"))?);
                }
                texts.join("\n")
            }
        };
        Ok(Message { role: role.to_owned(), content })
    }
}
