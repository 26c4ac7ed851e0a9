//! What requests and replies of the API look like on the wire, where several endpoints share it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ApiError;
use crate::decode::{Boundary, CacheMode, DecodeOptions, Method, ScoringRule};
use crate::engine::{FinishReason, Progress};
use crate::service::{Service, Speaker};

/// Strings that end the answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum Stop {
    /// One string.
    One(String),
    /// Several strings.
    Many(Vec<String>),
}

impl Stop {
    /// The strings.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(stop) => vec![stop],
            Self::Many(stops) => stops,
        }
    }
}

/// What a stream carries beside text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Send a last chunk with `usage` and no choices.
    #[schema(default = false)]
    pub include_usage: Option<bool>,
    /// With `include_usage`: on every chunk the tokens so far, of all answers, instead of null.
    #[schema(default = false)]
    pub continuous_usage_stats: Option<bool>,
}

/// Which chunks of a stream tell of tokens in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamUsage {
    /// None.
    Off,
    /// One more, at the end.
    Last,
    /// All, with the counts so far, and one more at the end.
    Every,
}

/// How a client wants its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// In one body.
    Whole,
    /// In one body, but not all that were generated: the most probable ones of every prompt.
    Best {
        /// Answers generated per prompt.
        of: usize,
        /// Answers sent per prompt, at least 1 and at most as many.
        kept: usize,
    },
    /// As server-sent events.
    Stream {
        /// Which of them tell of usage.
        usage: StreamUsage,
    },
}

impl Delivery {
    /// From the request's two fields.
    ///
    /// # Errors
    /// Options of a stream that is not asked for.
    pub fn new(stream: Option<bool>, options: Option<StreamOptions>) -> Result<Self, ApiError> {
        match (stream, options) {
            (Some(true), options) => {
                let StreamOptions { include_usage, continuous_usage_stats } = options.unwrap_or_default();
                let usage = match (include_usage, continuous_usage_stats) {
                    (Some(true), Some(true)) => StreamUsage::Every,
                    (Some(true), _) => StreamUsage::Last,
                    _ => StreamUsage::Off,
                };
                Ok(Self::Stream { usage })
            }
            (_, Some(_)) => Err(ApiError::invalid("stream_options", "is only allowed with stream = true")),
            (_, None) => Ok(Self::Whole),
        }
    }
}

/// The model or adapter asked for, by whichever of its names.
///
/// # Errors
/// Nothing that is served is called that.
pub fn asked_speaker(asked: Option<&str>, service: &Service) -> Result<Speaker, ApiError> {
    let unknown = || ApiError::UnknownModel(asked.unwrap_or_default().to_owned());
    service.speaker(asked).ok_or_else(unknown)
}

/// How to denoise. What is left out comes from the server's settings, then the model's `generation_config.json`, then
/// the defaults given here. Naming one of `steps`, `threshold` and `factor` drops the others' defaults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"method": "evotoken", "steps": 8, "block_length": 4}))]
pub struct DiffusionOptions {
    /// `evotoken` (progressive token evolution), `mask` (hard masks), or one of its two soft states alone: `soft_mask`
    /// (undecided positions are mixtures, decided ones hard), `soft_token` (undecided ones masks, decided ones soft).
    #[schema(value_type = Option<String>, pattern = "^(evotoken|mask|soft_mask|soft_token)$", default = "evotoken")]
    pub method: Option<Method>,
    /// Denoising steps of the whole answer, at least the number of its blocks; an answer that follows a rule
    /// (`guided_regex` and the like) may take more. Excludes `threshold` and `factor`.
    #[schema(minimum = 1)]
    pub steps: Option<i64>,
    /// Each step decides all positions of at least this confidence. Excludes `steps` and `factor`.
    #[schema(minimum = 0, maximum = 1, default = 0.9)]
    pub threshold: Option<f64>,
    /// Each step decides the largest n of positions with (n + 1)(1 - confidence of the n-th) below this. Excludes
    /// `steps` and `threshold`.
    #[schema(exclusive_minimum = 0)]
    pub factor: Option<f64>,
    /// Tokens per block; the last block may be shorter.
    #[schema(minimum = 1, default = 32)]
    pub block_length: Option<i64>,
    /// Candidates that a soft token mixes; below the size of the vocabulary.
    #[schema(minimum = 1, maximum = 256, default = 3)]
    pub k_soft: Option<i64>,
    /// Weight of the mask embedding in a soft mask.
    #[schema(minimum = 0, exclusive_maximum = 1, default = 0.7)]
    pub alpha: Option<f64>,
    /// K/V cache: `none`, `prefix` or `dual`.
    #[schema(value_type = Option<String>, pattern = "^(none|prefix|dual)$", default = "dual")]
    pub cache: Option<CacheMode>,
    /// When a finished block becomes hard tokens: `hard` (before the next block) or `lagged` (after its first step).
    #[schema(value_type = Option<String>, pattern = "^(hard|lagged)$", default = "hard")]
    pub boundary: Option<Boundary>,
    /// With `stream`, and only with it: one more chunk per denoising step that tells what it left behind, see
    /// `StepProgress`. It is a chunk without text; chunks of text do not change.
    #[schema(default = false)]
    pub progress: Option<bool>,
    /// With `echo` and `logprobs`, and only with them: how the prompt's tokens are scored. `chain`: each behind those before
    /// it, itself and all behind it masked. `pseudo`: each between all others, itself alone masked.
    #[schema(value_type = Option<String>, pattern = "^(chain|pseudo)$", default = "chain")]
    pub scoring: Option<ScoringRule>,
}

impl DiffusionOptions {
    /// As a layer of decoding settings.
    ///
    /// # Errors
    /// A count is negative.
    pub fn into_options(self) -> Result<DecodeOptions, ApiError> {
        Ok(DecodeOptions {
            method: self.method,
            steps: count("diffusion.steps", self.steps)?,
            threshold: self.threshold,
            factor: self.factor,
            block_length: count("diffusion.block_length", self.block_length)?,
            k_soft: count("diffusion.k_soft", self.k_soft)?,
            alpha: self.alpha,
            cache: self.cache,
            boundary: self.boundary,
        })
    }
}

/// A count as a client gives it.
///
/// # Errors
/// It is negative.
pub fn count(param: &str, value: Option<i64>) -> Result<Option<usize>, ApiError> {
    let whole = |value| usize::try_from(value).map_err(|_| ApiError::invalid(param, "must not be negative"));
    value.map(whole).transpose()
}

/// What is added to logits, as a client gives it: JSON's keys are strings.
///
/// # Errors
/// A key is no token id.
pub fn logit_bias(entries: Option<BTreeMap<String, f64>>) -> Result<Vec<(u32, f64)>, ApiError> {
    // One spelling per id, or two keys could mean the same token.
    let entry = |(key, bias): (String, f64)| match key.parse::<u32>() {
        Ok(id) if id.to_string() == key => Ok((id, bias)),
        _ => Err(ApiError::invalid("logit_bias", format!("{key:?} is no token id"))),
    };
    entries.unwrap_or_default().into_iter().map(entry).collect()
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of all prompts, each counted once.
    #[schema(minimum = 0)]
    pub prompt_tokens: usize,
    /// Visible tokens of all answers; an end-of-text token counts as one, what lies behind it does not count.
    #[schema(minimum = 0)]
    pub completion_tokens: usize,
    /// Their sum.
    #[schema(minimum = 0)]
    pub total_tokens: usize,
}

impl Usage {
    /// Prompt and completion tokens, and their sum.
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// What the answer cost to denoise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct DiffusionReport {
    /// Forward passes (number of function evaluations).
    #[schema(minimum = 0)]
    pub nfe: usize,
    /// Finished blocks.
    #[schema(minimum = 0)]
    pub blocks: usize,
    /// Visible tokens per forward pass.
    #[schema(minimum = 0)]
    pub tokens_per_forward: f64,
    /// Soft tokens that changed before their block was done.
    #[schema(minimum = 0)]
    pub revisions: usize,
    /// Key of the randomness, any whole number of 64 bits: the request's, or the one it got. Sent with the same request it
    /// gives the same answers.
    pub seed: i64,
}

impl From<Progress> for DiffusionReport {
    fn from(progress: Progress) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of one answer")]
        let tokens_per_forward = progress.tokens as f64 / progress.nfe.max(1) as f64;
        let Progress { nfe, blocks, revisions, seed, .. } = progress;
        Self { nfe, blocks, tokens_per_forward, revisions, seed: seed.cast_signed() }
    }
}

/// OpenAI's word for why an answer ended.
pub fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}
