//! `POST /v1/completions`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, Refusals};
use super::schema::{DiffusionOptions, DiffusionReport, Stop, StreamOptions, Usage, count, finish_reason};
use super::{App, JsonBody, sse};
use crate::service::{Answers, Ask, Prompts, TextEvent, random};

/// A prompt or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string, an array of strings, an array of token ids or an array of arrays of token ids"
)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The token ids of one prompt, used as they are.
    Ids(Vec<u32>),
    /// The token ids of several prompts.
    ManyIds(Vec<Vec<u32>>),
}

/// A request for completions. `null` means the same as leaving a field out; unknown fields are ignored.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[schema(example = json!({"prompt": "Numbers: [30, 100, 93]\nTarget: 23", "max_tokens": 16}))]
pub struct CompletionRequest {
    /// Which model; left out: the one that is served.
    pub model: Option<String>,
    /// What to complete: at least one token, none of them the mask. Must be given.
    #[schema(required = true, nullable = false)]
    pub prompt: Option<Prompt>,
    /// Room for each answer, in tokens. Left out: what the model recommends, else 16.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Randomness of the guesses; 0 takes the most probable tokens. Left out: what the model recommends, else 0.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Key of the randomness: the same seed gives the same answers. Left out: a random one.
    pub seed: Option<i64>,
    /// Up to 4 strings (the server's setting) that end an answer; they are not part of it.
    pub stop: Option<Stop>,
    /// Answers per prompt; prompts times `n` is limited by the server.
    #[schema(minimum = 1, default = 1)]
    pub n: Option<i64>,
    /// Send text as server-sent events, one per finished block.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Who asks; has no effect.
    pub user: Option<String>,
    /// How to denoise.
    pub diffusion: Option<DiffusionOptions>,
    /// Not supported: only `n`.
    #[schema(default = 1)]
    pub best_of: Option<i64>,
    /// Not supported: only false.
    #[schema(default = false)]
    pub echo: Option<bool>,
    /// Not supported: only null.
    pub logprobs: Option<i64>,
    /// Not supported: only an empty object.
    #[schema(value_type = Option<Object>)]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Not supported: only an empty string.
    pub suffix: Option<String>,
    /// Not supported: only 1.
    #[schema(default = 1)]
    pub top_p: Option<f64>,
    /// Not supported: only 0.
    #[schema(default = 0)]
    pub presence_penalty: Option<f64>,
    /// Not supported: only 0.
    #[schema(default = 0)]
    pub frequency_penalty: Option<f64>,
    /// Fields nobody knows here.
    #[serde(flatten)]
    #[schema(ignore)]
    pub unknown: BTreeMap<String, IgnoredAny>,
}

/// Completions, whole or (as a stream's chunk) in part.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Completion {
    /// The same on all chunks of a stream.
    #[schema(example = "cmpl-0f3b62a7c1d94e58a6b7c8d9e0f1a2b3")]
    pub id: String,
    /// Always `text_completion`.
    pub object: &'static str,
    /// When the request was taken, in Unix seconds.
    #[schema(minimum = 0)]
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// The answers: prompt by prompt, `n` for each. A chunk holds one, the usage chunk none.
    pub choices: Vec<CompletionChoice>,
    /// Tokens in and out. In a stream only if asked for: null but on the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// One answer, or a part of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Which answer, from 0.
    #[schema(minimum = 0)]
    pub index: usize,
    /// The answer; in a stream what came to it: text that will not change.
    pub text: String,
    /// `stop` (end-of-text or a stop string) or `length`; null while the answer goes on.
    pub finish_reason: Option<&'static str>,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    pub logprobs: (),
    /// What the answer cost; in a stream on the chunk with `finish_reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<DiffusionReport>,
}

impl CompletionChoice {
    /// Text of answer `index`, which goes on.
    pub fn part(index: usize, text: String) -> Self {
        Self { index, text, finish_reason: None, logprobs: (), diffusion: None }
    }
}

/// Complete prompts. With `stream` the reply is a stream of server-sent events: one chunk per finished block, one with
/// `finish_reason` per answer, one with `usage` if asked for, then `[DONE]`. An error after the first event is an event
/// with the error body, and no `[DONE]` follows.
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI", operation_id = "createCompletion",
    security((), ("bearer" = [])), request_body = CompletionRequest, responses(
    (status = 200, description = "The completions.",
     content((Completion = "application/json"), (Completion = "text/event-stream"))),
    Refusals))]
pub async fn complete(
    State(app): State<Arc<App>>,
    JsonBody(request): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    let service = Arc::clone(app.ready()?);
    request.check(service.name())?;
    let stream = request.stream == Some(true);
    let include_usage = request.stream_options.and_then(|o| o.include_usage).unwrap_or(false);
    let ask = request.into_ask()?;
    let head = Completion {
        id: format!("cmpl-{:016x}{:016x}", random(), random()),
        object: "text_completion",
        created: crate::service::unix_seconds(),
        model: service.name().to_owned(),
        choices: Vec::new(),
        usage: None,
    };
    // Tokenizing a long prompt takes a while, and other connections must not wait for it.
    let answers = tokio::task::spawn_blocking(move || service.answer(ask)).await.map_err(|error| {
        tracing::error!(%error, "a request could not be prepared");
        ApiError::Internal
    })??;
    if stream { sse::stream(head, answers, include_usage).await } else { whole(head, answers).await }
}

/// Fold the same events that a stream would send.
async fn whole(mut head: Completion, answers: Answers) -> Result<Response, ApiError> {
    let mut choices: Vec<CompletionChoice> =
        (0..answers.streams.len()).map(|index| CompletionChoice::part(index, String::new())).collect();
    let mut completion_tokens = 0;
    let prompt_tokens = answers.prompt_tokens;
    let mut events = answers.into_events();
    while let Some((index, event)) = events.next().await {
        let choice = &mut choices[index];
        match event {
            TextEvent::Admitted => {}
            TextEvent::Block(text) => choice.text.push_str(&text),
            TextEvent::Finished { text, reason, progress } => {
                choice.text.push_str(&text);
                choice.finish_reason = Some(finish_reason(reason));
                choice.diffusion = Some(progress.into());
                completion_tokens += progress.tokens;
            }
            TextEvent::Failed(error) => return Err(error.into()),
        }
    }
    head.choices = choices;
    head.usage = Some(Some(Usage::new(prompt_tokens, completion_tokens)));
    Ok(Json(head).into_response())
}

impl CompletionRequest {
    /// Whether this server can do what is asked, apart from ranges.
    fn check(&self, served: &str) -> Result<(), ApiError> {
        if let Some(model) = self.model.as_ref().filter(|model| *model != served) {
            return Err(ApiError::UnknownModel(model.clone()));
        }
        let unsupported = [
            ("best_of", self.best_of.is_some_and(|n| n != self.n.unwrap_or(1))),
            ("echo", self.echo == Some(true)),
            ("logprobs", self.logprobs.is_some()),
            ("logit_bias", self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty())),
            ("suffix", self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty())),
            ("top_p", self.top_p.is_some_and(|p| p != 1.0)),
            ("presence_penalty", self.presence_penalty.is_some_and(|p| p != 0.0)),
            ("frequency_penalty", self.frequency_penalty.is_some_and(|p| p != 0.0)),
        ];
        if let Some((param, _)) = unsupported.into_iter().find(|(_, asked)| *asked) {
            return Err(ApiError::Unsupported(param));
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(ApiError::invalid("stream_options", "is only allowed with stream = true"));
        }
        if !self.unknown.is_empty() {
            tracing::debug!(fields = ?self.unknown.keys(), "unknown fields are ignored");
        }
        Ok(())
    }

    fn into_ask(self) -> Result<Ask, ApiError> {
        let prompts = match self.prompt {
            None => return Err(ApiError::invalid("prompt", "must be given")),
            Some(Prompt::Text(text)) => Prompts::Texts(vec![text]),
            Some(Prompt::Texts(texts)) => Prompts::Texts(texts),
            Some(Prompt::Ids(ids)) => Prompts::Ids(vec![ids]),
            Some(Prompt::ManyIds(ids)) => Prompts::Ids(ids),
        };
        Ok(Ask {
            prompts,
            choices: count("n", self.n)?.unwrap_or(1),
            max_tokens: count("max_tokens", self.max_tokens)?,
            temperature: self.temperature,
            seed: self.seed.map(i64::cast_unsigned),
            stop: self.stop.map_or_else(Vec::new, Stop::into_vec),
            decode: self.diffusion.unwrap_or_default().into_options()?,
        })
    }
}
