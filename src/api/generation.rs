//! What the two endpoints that generate have in common: the parameters that a request may carry whatever it asks to be
//! written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::body::parse_fields;
use super::error::ApiError;
use super::guided::{ResponseFormat, StructuredOutputs, Wishes};
use super::parameters::{self, Refused};
use super::schema::{Delivery, DiffusionOptions, Stop, StreamOptions, asked_speaker, count, logit_bias};
use crate::engine::request::PromptEcho;
use crate::engine::sampling::SamplingOptions;
use crate::guide::Json;
use crate::service::{Ask, Prompts, Service, Speaker};

/// Parameters of every request that generates. `null` means the same as leaving a field out; unknown fields are ignored.
/// Parameters of OpenAI's that are not listed are refused unless their value asks for nothing.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct GenerationOptions {
    /// Which model, by any of its names, or which adapter: `ADAPTER` or `MODEL:ADAPTER`. Left out: the model without an adapter.
    /// Answers carry the model's first name, or the adapter's as it was asked for.
    pub model: Option<String>,
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
    /// Key of the randomness, any whole number of 64 bits: the same seed gives the same answers. Left out: a random one.
    pub seed: Option<i64>,
    /// Up to 4 strings (the server's setting) that end an answer; they are not part of it.
    pub stop: Option<Stop>,
    /// Neither end-of-text nor a stop string ends an answer before it has so many tokens.
    #[schema(minimum = 0, default = 0)]
    pub min_tokens: Option<i64>,
    /// End-of-text is never written: an answer has all the tokens it has room for, unless a stop string ends it.
    #[schema(default = false)]
    pub ignore_eos: Option<bool>,
    /// Answers per prompt; prompts times `n` is limited by the server.
    #[schema(minimum = 1, default = 1)]
    pub n: Option<i64>,
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
    /// Parameters that are refused or have no effect.
    #[serde(flatten)]
    #[schema(ignore)]
    pub rest: BTreeMap<String, Value>,
}

/// What an endpoint makes of its own parameters.
#[derive(Debug)]
pub struct Own {
    /// What to go on from.
    pub prompts: Prompts,
    /// Answers per prompt that are generated.
    pub choices: usize,
    /// Room for each answer, in tokens.
    pub max_tokens: Option<usize>,
    /// A text that follows.
    pub suffix: Option<String>,
    /// Whether the prompt comes before each answer.
    pub echo: bool,
    /// Alternatives to report per token; `None`: no scores are reported.
    pub logprobs: Option<usize>,
}

impl GenerationOptions {
    /// From the fields that an endpoint has no use for itself. They are parsed on their own, because the path of a mistake
    /// is lost in fields that serde flattens.
    ///
    /// # Errors
    /// A field is of the wrong type; it is named.
    pub fn parse(fields: Map<String, Value>) -> Result<Self, ApiError> {
        parse_fields(fields)
    }

    /// Who of `service` is asked, if nothing is asked for that `refused` lists.
    ///
    /// # Errors
    /// What is not there.
    pub fn speaker(&self, service: &Service, refused: &[Refused]) -> Result<Speaker, ApiError> {
        let speaker = asked_speaker(self.model.as_deref(), service)?;
        parameters::check(&self.rest, refused)?;
        Ok(speaker)
    }

    /// How the answers are wanted.
    ///
    /// # Errors
    /// Options of a stream that is not asked for.
    pub fn delivery(&self) -> Result<Delivery, ApiError> {
        Delivery::new(self.stream, self.stream_options)
    }

    /// Answers per prompt that are wanted.
    ///
    /// # Errors
    /// A negative number.
    pub fn choices(&self) -> Result<usize, ApiError> {
        Ok(count("n", self.n)?.unwrap_or(1))
    }

    /// The request to `speaker` as the service knows it.
    ///
    /// # Errors
    /// A negative number, or a bias for what is no token.
    pub fn into_ask(self, speaker: Speaker, own: Own) -> Result<Ask, ApiError> {
        let Own { prompts, choices, max_tokens, suffix, echo, logprobs } = own;
        let diffusion = self.diffusion.unwrap_or_default();
        let progress = diffusion.progress == Some(true);
        if progress && self.stream != Some(true) {
            let message = "is only possible with stream = true";
            return Err(ApiError::invalid("diffusion.progress", message));
        }
        let echo = match (echo, logprobs.is_some(), diffusion.scoring) {
            (true, true, rule) => PromptEcho::Scored(rule.unwrap_or_default()),
            (_, _, Some(_)) => {
                let message = "needs echo = true and logprobs: without them no prompt is scored";
                return Err(ApiError::invalid("diffusion.scoring", message));
            }
            (true, false, None) => PromptEcho::Text,
            (false, _, None) => PromptEcho::Off,
        };
        Ok(Ask {
            speaker,
            prompts,
            choices,
            max_tokens,
            suffix,
            echo,
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
                progress,
            },
            seed: self.seed.map(i64::cast_unsigned),
            stop: self.stop.map_or_else(Vec::new, Stop::into_vec),
            decode: diffusion.into_options()?,
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
