//! `POST /v1/completions`.

use std::cmp::Ordering;
use std::mem::take;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::answer::{self, Answer, Head, Piece, Shape};
use super::error::{ApiError, Refusals};
use super::event::StreamEvent;
use super::generation::{GenerationOptions, Own};
use super::logprobs::{self, CompletionLogprobs};
use super::progress::{DiffusionPart, StepProgress};
use super::schema::{Delivery, Usage, count};
use super::{App, JsonBody, parameters};
use crate::service::Prompts;

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

/// A request for completions.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// What to complete: at least one token, none of them the mask. Must be given.
    #[schema(required = true, nullable = false)]
    pub prompt: Option<Prompt>,
    /// Room for each answer, in tokens. Left out: what the model recommends, else 16. 0 only with `echo`.
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// A text that comes after the answer: the model fills the gap of `max_tokens` tokens between the prompt and it.
    pub suffix: Option<String>,
    /// Repeat the prompt before each answer; with `logprobs` the prompt's tokens are scored, too (by `diffusion.scoring`).
    #[schema(default = false)]
    pub echo: Option<bool>,
    /// Report the log-probability of every token, with so many of the most probable ones in its place.
    #[schema(minimum = 0, maximum = 5)]
    pub logprobs: Option<i64>,
    /// Generate so many answers per prompt and send the `n` whose tokens have the highest mean log-probability, best
    /// first. Left out: `n`. Not with `stream`.
    #[schema(minimum = 1)]
    pub best_of: Option<i64>,
    /// What every request that generates may say.
    #[serde(flatten)]
    #[schema(value_type = GenerationOptions)]
    pub options: Map<String, Value>,
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
    /// Tokens in and out. In a stream only if asked for: null but on the last chunk, or all with the counts so far.
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
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
    /// Log-probabilities of the tokens; in a stream of those whose text is out. Null unless asked for.
    #[schema(required = true)]
    pub logprobs: Option<CompletionLogprobs>,
    /// What the answer cost; in a stream on the chunk with `finish_reason`, and on chunks of `progress` what a step did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<DiffusionPart>,
}

/// Replies of this endpoint.
struct Texts {
    head: Head,
    /// Whether scores of tokens are shown.
    scored: bool,
}

impl Texts {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        let Head { id, created, model } = self.head.clone();
        Completion { id, object: "text_completion", created, model, choices, usage }
    }

    fn choice(&self, index: usize, answer: Answer) -> CompletionChoice {
        let Answer { text, tokens, end } = answer;
        let finish_reason = end.map(|end| end.finish_reason);
        let diffusion = end.map(|end| DiffusionPart::Report(end.diffusion));
        let logprobs = self.scored.then(|| CompletionLogprobs::new(&tokens));
        CompletionChoice { index, text, finish_reason, logprobs, diffusion }
    }
}

impl Shape for Texts {
    type Whole = Completion;
    type Chunk = Completion;

    fn whole(self, answers: Vec<Answer>, usage: Usage) -> Completion {
        let choices = answers.into_iter().enumerate();
        let choices = choices.map(|(index, answer)| self.choice(index, answer)).collect();
        self.completion(choices, Some(Some(usage)))
    }

    fn piece(&self, index: usize, piece: Piece, usage: Option<Option<Usage>>) -> Option<Completion> {
        let answer = match piece {
            Piece::Opened => return None,
            Piece::Step(step) => {
                let progress = Box::new(StepProgress::from(*step));
                let diffusion = Some(DiffusionPart::Progress { progress });
                let text = String::new();
                let choice = CompletionChoice { index, text, finish_reason: None, logprobs: None, diffusion };
                return Some(self.completion(vec![choice], usage));
            }
            Piece::Text(text, tokens) => Answer { text, tokens, end: None },
            Piece::Ended(text, tokens, end) => Answer { text, tokens, end: Some(end) },
        };
        Some(self.completion(vec![self.choice(index, answer)], usage))
    }

    fn usage(&self, usage: Usage) -> Completion {
        self.completion(Vec::new(), Some(Some(usage)))
    }
}

/// An event of a stream of this endpoint.
type CompletionEvent = StreamEvent<Completion>;

/// Complete prompts. With `stream` the reply is a stream of server-sent events: one chunk per finished block, one with
/// `finish_reason` per answer, one with `usage` if asked for, then `[DONE]`. An error after the first event is an event
/// with the error body, and no `[DONE]` follows.
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI", operation_id = "createCompletion",
    security((), ("bearer" = [])), request_body = CompletionRequest, responses(
    (status = 200, description = "The completions.",
     content((Completion = "application/json"), (CompletionEvent = "text/event-stream"))),
    Refusals))]
pub async fn complete(
    State(app): State<Arc<App>>,
    JsonBody(mut request): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    let service = Arc::clone(app.ready()?);
    let options = GenerationOptions::parse(take(&mut request.options))?;
    let speaker = options.speaker(&service, &parameters::COMPLETION)?;
    let (choices, delivery) = request.choices(&options)?;
    let mut ask = options.into_ask(speaker, request.own(choices)?)?;
    let shape = Texts { head: Head::new("cmpl", &ask.speaker), scored: ask.sampling.logprobs.is_some() };
    let selects = matches!(delivery, Delivery::Best { .. });
    if selects {
        // The best are found by their scores, also where these are not shown.
        ask.sampling.logprobs.get_or_insert(0);
    }
    answer::reply(service, ask, delivery, shape).await.map_err(|error| match error {
        ApiError::Invalid { param, message } if selects && param == "n" => {
            ApiError::invalid("best_of", message)
        }
        other => other,
    })
}

impl CompletionRequest {
    /// How many answers per prompt are generated, and how they are sent.
    fn choices(&self, options: &GenerationOptions) -> Result<(usize, Delivery), ApiError> {
        let delivery = options.delivery()?;
        let kept = options.choices()?;
        let of = count("best_of", self.best_of)?.unwrap_or(kept);
        match (of.cmp(&kept), delivery) {
            (Ordering::Less, _) => {
                Err(ApiError::invalid("best_of", format!("must be at least n, which is {kept}")))
            }
            (Ordering::Equal, delivery) => Ok((of, delivery)),
            (Ordering::Greater, Delivery::Stream { .. }) => {
                Err(ApiError::invalid("best_of", "above n is not possible with stream = true"))
            }
            (Ordering::Greater, _) => Ok((of, Delivery::Best { of, kept })),
        }
    }

    fn own(self, choices: usize) -> Result<Own, ApiError> {
        let prompts = match self.prompt {
            None => return Err(ApiError::invalid("prompt", "must be given")),
            Some(Prompt::Text(text)) => Prompts::Texts(vec![text]),
            Some(Prompt::Texts(texts)) => Prompts::Texts(texts),
            Some(Prompt::Ids(ids)) => Prompts::Ids(vec![ids]),
            Some(Prompt::ManyIds(ids)) => Prompts::Ids(ids),
        };
        Ok(Own {
            prompts,
            choices,
            max_tokens: count("max_tokens", self.max_tokens)?,
            suffix: self.suffix,
            echo: self.echo == Some(true),
            logprobs: logprobs::alternatives("logprobs", self.logprobs, logprobs::COMPLETION_ALTERNATIVES)?,
        })
    }
}
