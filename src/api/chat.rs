//! `POST /v1/chat/completions`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::{self, Head};
use super::error::{ApiError, Refusals};
use super::guided::{ResponseFormat, StructuredOutputs, Wishes};
use super::logprobs;
use super::schema::{Delivery, DiffusionOptions, Stop, StreamOptions, check_model, count, logit_bias};
use super::turn::{ChatCompletion, ChatCompletionChunk, Turns};
use super::{App, JsonBody, parameters};
use crate::guide::Json;
use crate::service::request::PromptEcho;
use crate::service::{Ask, Chat, Prompts, SamplingOptions};
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
    pub kind: String,
    /// The text.
    #[schema(required = true, nullable = false)]
    pub text: Option<String>,
}

/// One turn of the conversation.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer` (the same), `user` or `assistant`.
    #[schema(required = true, nullable = false)]
    pub role: Option<String>,
    /// What is said. Must be given.
    #[schema(required = true, nullable = false)]
    pub content: Option<Content>,
}

/// A request for the next turn of a conversation. `null` means the same as leaving a field out; unknown fields are
/// ignored. Parameters of OpenAI's that are not listed here are refused unless their value asks for nothing.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[schema(example = json!({"messages": [{"role": "user", "content": "Numbers: [30, 100, 93]\nTarget: 23"}]}))]
pub struct ChatCompletionRequest {
    /// Which model; left out: the one that is served.
    pub model: Option<String>,
    /// The conversation so far, at least one message; the model's own chat template makes a prompt of it.
    #[schema(required = true, nullable = false)]
    pub messages: Option<Vec<ChatMessage>>,
    /// Room for each answer, in tokens. Left out: what the model recommends, else as much as fits, up to 256.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`, which goes before it.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Randomness of the guesses; 0 takes the most probable tokens. Left out: what the model recommends, else 0.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Added to the logits of tokens (id to a number from -100 to 100) before everything else; up to 300 tokens.
    #[schema(example = json!({"50": -100}))]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// A draw takes one of the fewest most probable tokens that have this share of the probability. Without effect at
    /// temperature 0.
    #[schema(minimum = 0, maximum = 1, default = 1)]
    pub top_p: Option<f64>,
    /// A draw takes one of so many most probable tokens; 0 and -1: of all. Without effect at temperature 0.
    #[schema(minimum = -1, default = 0)]
    pub top_k: Option<i64>,
    /// A draw takes a token at least this fraction as probable as the most probable one. Without effect at temperature 0.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    pub min_p: Option<f64>,
    /// Subtracted from the logits of tokens for each time they are in the answer so far.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub frequency_penalty: Option<f64>,
    /// Subtracted from the logits of tokens that are in the answer so far.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub presence_penalty: Option<f64>,
    /// Divides positive logits, and multiplies negative ones, of tokens of the prompt and of the answer so far.
    #[schema(exclusive_minimum = 0, default = 1)]
    pub repetition_penalty: Option<f64>,
    /// Key of the randomness: the same seed gives the same answers. Left out: a random one.
    pub seed: Option<i64>,
    /// Up to 4 strings (the server's setting) that end an answer; they are not part of it.
    pub stop: Option<Stop>,
    /// End-of-text cannot end an answer before it has so many tokens; a stop string can.
    #[schema(minimum = 0, default = 0)]
    pub min_tokens: Option<i64>,
    /// End-of-text is never written: an answer has all the tokens it has room for, unless a stop string ends it.
    #[schema(default = false)]
    pub ignore_eos: Option<bool>,
    /// Answers; limited by the server.
    #[schema(minimum = 1, default = 1)]
    pub n: Option<i64>,
    /// Report the log-probability of every token of the text.
    #[schema(default = false)]
    pub logprobs: Option<bool>,
    /// With `logprobs`: and so many of the most probable tokens in its place.
    #[schema(minimum = 0, maximum = 20, default = 0)]
    pub top_logprobs: Option<i64>,
    /// Send text as server-sent events, one per finished block.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Answer with one of these texts.
    #[schema(example = json!(["yes", "no"]))]
    pub guided_choice: Option<Vec<String>>,
    /// Answer with a text that this regular expression matches as a whole.
    #[schema(example = "[0-9]+")]
    pub guided_regex: Option<String>,
    /// Answer with JSON that is valid under this schema, given as an object or as its text.
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Json>,
    /// The same in vLLM's newer spelling.
    pub structured_outputs: Option<StructuredOutputs>,
    /// The same in OpenAI's spelling.
    pub response_format: Option<ResponseFormat>,
    /// How to denoise.
    pub diffusion: Option<DiffusionOptions>,
    /// Begin the model's turn behind the last message.
    #[schema(default = true)]
    pub add_generation_prompt: Option<bool>,
    /// Leave the last message open, so that the answer goes on where it ends. Needs `add_generation_prompt` = false.
    #[schema(default = false)]
    pub continue_final_message: Option<bool>,
    /// Parameters that are refused or have no effect.
    #[serde(flatten)]
    #[schema(ignore)]
    pub rest: BTreeMap<String, Value>,
}

/// Continue a conversation. With `stream` the reply is a stream of server-sent events: per answer one chunk with the role,
/// one per finished block, one with `finish_reason`; then one with `usage` if asked for, then `[DONE]`. An error after the
/// first event is an event with the error body, and no `[DONE]` follows.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", operation_id = "createChatCompletion",
    security((), ("bearer" = [])), request_body = ChatCompletionRequest, responses(
    (status = 200, description = "The model's turns.",
     content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream"))),
    Refusals))]
pub async fn complete(
    State(app): State<Arc<App>>,
    JsonBody(request): JsonBody<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let service = Arc::clone(app.ready()?);
    check_model(request.model.as_deref(), service.name())?;
    parameters::check(&request.rest, &parameters::CHAT)?;
    let delivery = Delivery::new(request.stream, request.stream_options)?;
    let newer = request.max_completion_tokens.is_some();
    let ask = request.into_ask()?;
    let shape = Turns { head: Head::new("chatcmpl", &service), scored: ask.sampling.logprobs.is_some() };
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
    fn into_ask(self) -> Result<Ask, ApiError> {
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
        Ok(Ask {
            prompts: Prompts::Chat(chat),
            choices: count("n", self.n)?.unwrap_or(1),
            max_tokens: newer.or(older),
            suffix: None,
            echo: PromptEcho::Off,
            temperature: self.temperature,
            sampling: SamplingOptions {
                min_tokens: count("min_tokens", self.min_tokens)?,
                ignore_eos: self.ignore_eos.unwrap_or(false),
                logit_bias: logit_bias(self.logit_bias)?,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                repetition_penalty: self.repetition_penalty,
                logprobs,
            },
            seed: self.seed.map(i64::cast_unsigned),
            stop: self.stop.map_or_else(Vec::new, Stop::into_vec),
            decode: self.diffusion.unwrap_or_default().into_options()?,
            guide: Wishes {
                choice: self.guided_choice,
                regex: self.guided_regex,
                json: self.guided_json,
                structured: self.structured_outputs,
                format: self.response_format,
            }
            .constraint()?,
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
