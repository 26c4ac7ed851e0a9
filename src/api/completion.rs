//! `POST /v1/completions`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::{self, Answer, Head, Piece, Shape};
use super::error::{ApiError, Refusals};
use super::guided::{ResponseFormat, StructuredOutputs, Wishes};
use super::logprobs::{self, CompletionLogprobs};
use super::schema::{
    Delivery, DiffusionOptions, DiffusionReport, Stop, StreamOptions, Usage, check_model, count, logit_bias,
};
use super::{App, JsonBody, parameters};
use crate::guide::Json;
use crate::service::request::PromptEcho;
use crate::service::{Ask, Prompts, SamplingOptions};

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

/// A request for completions. `null` means the same as leaving a field out; unknown fields are ignored. Parameters of
/// OpenAI's that are not listed here are refused unless their value asks for nothing.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[schema(example = json!({"prompt": "Numbers: [30, 100, 93]\nTarget: 23", "max_tokens": 16}))]
pub struct CompletionRequest {
    /// Which model; left out: the one that is served.
    pub model: Option<String>,
    /// What to complete: at least one token, none of them the mask. Must be given.
    #[schema(required = true, nullable = false)]
    pub prompt: Option<Prompt>,
    /// Room for each answer, in tokens. Left out: what the model recommends, else 16. 0 only with `echo`.
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// A text that comes after the answer: the model fills the gap of `max_tokens` tokens between the prompt and it.
    pub suffix: Option<String>,
    /// Repeat the prompt before each answer; with `logprobs` the prompt's tokens are scored, too.
    #[schema(default = false)]
    pub echo: Option<bool>,
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
    /// Answers per prompt; prompts times `n` is limited by the server.
    #[schema(minimum = 1, default = 1)]
    pub n: Option<i64>,
    /// Report the log-probability of every token, with so many of the most probable ones in its place.
    #[schema(minimum = 0, maximum = 5)]
    pub logprobs: Option<i64>,
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
    /// Generate so many answers per prompt and send the `n` whose tokens have the highest mean log-probability, best
    /// first. Left out: `n`. Not with `stream`.
    #[schema(minimum = 1)]
    pub best_of: Option<i64>,
    /// Parameters that are refused or have no effect.
    #[serde(flatten)]
    #[schema(ignore)]
    pub rest: BTreeMap<String, Value>,
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
    /// Log-probabilities of the tokens; in a stream of those whose text is out. Null unless asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// What the answer cost; in a stream on the chunk with `finish_reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<DiffusionReport>,
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
        let (finish_reason, diffusion) = (end.map(|end| end.finish_reason), end.map(|end| end.diffusion));
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
            Piece::Text(text, tokens) => Answer { text, tokens, end: None },
            Piece::Ended(text, tokens, end) => Answer { text, tokens, end: Some(end) },
        };
        Some(self.completion(vec![self.choice(index, answer)], usage))
    }

    fn usage(&self, usage: Usage) -> Completion {
        self.completion(Vec::new(), Some(Some(usage)))
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
    check_model(request.model.as_deref(), service.name())?;
    parameters::check(&request.rest, &[])?;
    let (choices, delivery) = request.choices()?;
    let mut ask = request.into_ask(choices)?;
    let shape = Texts { head: Head::new("cmpl", &service), scored: ask.sampling.logprobs.is_some() };
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
    fn choices(&self) -> Result<(usize, Delivery), ApiError> {
        let delivery = Delivery::new(self.stream, self.stream_options)?;
        let kept = count("n", self.n)?.unwrap_or(1);
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

    fn into_ask(self, choices: usize) -> Result<Ask, ApiError> {
        let prompts = match self.prompt {
            None => return Err(ApiError::invalid("prompt", "must be given")),
            Some(Prompt::Text(text)) => Prompts::Texts(vec![text]),
            Some(Prompt::Texts(texts)) => Prompts::Texts(texts),
            Some(Prompt::Ids(ids)) => Prompts::Ids(vec![ids]),
            Some(Prompt::ManyIds(ids)) => Prompts::Ids(ids),
        };
        Ok(Ask {
            prompts,
            choices,
            max_tokens: count("max_tokens", self.max_tokens)?,
            suffix: self.suffix,
            echo: match (self.echo, self.logprobs) {
                (Some(true), Some(_)) => PromptEcho::Scored,
                (Some(true), None) => PromptEcho::Text,
                _ => PromptEcho::Off,
            },
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
                logprobs: logprobs::alternatives(
                    "logprobs",
                    self.logprobs,
                    logprobs::COMPLETION_ALTERNATIVES,
                )?,
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
