//! What a client may say about the choice of tokens beside the temperature, and about the report of it:
//! [`SamplingOptions`], and checked, [`SamplingParams`].

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::adjustment::Penalties;
use super::batch::Filters;
use super::request::{Limits, RequestError};

/// Most tokens whose logits a request changes: OpenAI's and vLLM's bound.
const MAX_BIASED_TOKENS: usize = 300;

/// As a client says it; the default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingOptions {
    /// Tokens of the answer before which it cannot end by end-of-text.
    pub min_tokens: Option<usize>,
    /// Never end by end-of-text.
    pub ignore_eos: bool,
    /// (token id, what is added to its logit: -100 to 100).
    pub logit_bias: Vec<(u32, f64)>,
    /// A draw takes the fewest most probable tokens that have this share of the probability, 0 to 1.
    pub top_p: Option<f64>,
    /// A draw takes one of so many most probable tokens; 0 and -1: of all.
    pub top_k: Option<i64>,
    /// A draw takes a token at least this fraction as probable as the most probable one, 0 to 1.
    pub min_p: Option<f64>,
    /// Makes tokens of the prompt and the answer less probable (above 1) or more (below 1); above 0.
    pub repetition_penalty: Option<f64>,
    /// Makes tokens less probable for each time they are in the answer, -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// Makes tokens less probable that are in the answer, -2 to 2.
    pub presence_penalty: Option<f64>,
    /// Report the log-probability of every token, with so many of the most probable ones in its place.
    pub logprobs: Option<usize>,
    /// Tell what every step left behind.
    pub progress: bool,
}

/// What is done to a sequence's logits and told of them, in range. Made only by [`SamplingOptions::resolve`].
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Tokens that are no candidates at the first `excluded_before` positions of the answer: the end-of-text tokens.
    pub excluded: Arc<[u32]>,
    /// How many positions of the answer that holds for; 0 for none.
    pub excluded_before: usize,
    /// (token id, what is added to its logit).
    pub bias: Arc<[(u32, f32)]>,
    /// What a token costs for having been written.
    pub penalties: Penalties,
    /// Which candidates a draw may take.
    pub filters: Filters,
    /// Alternatives to report per token; `None`: no scores are reported.
    pub logprobs: Option<usize>,
    /// Whether every step is told.
    pub progress: bool,
}

impl SamplingOptions {
    /// Check against the answer's length (tokens) and the model.
    ///
    /// # Errors
    /// The first value out of range, by name.
    pub fn resolve(self, max_tokens: usize, limits: &Limits) -> Result<SamplingParams, RequestError> {
        let min_tokens = self.min_tokens.unwrap_or(0);
        if min_tokens > max_tokens {
            let message = format!("{min_tokens} is more than the {max_tokens} tokens of the answer");
            return Err(RequestError::invalid("min_tokens", message));
        }
        let penalties = self.penalties()?;
        let excluded_before = if self.ignore_eos { max_tokens } else { min_tokens };
        Ok(SamplingParams {
            logprobs: self.logprobs,
            progress: self.progress,
            excluded: limits.eos_ids.as_slice().into(),
            excluded_before,
            bias: bias(&self.logit_bias, limits.vocab)?,
            penalties,
            filters: Filters {
                top_k: top_k(self.top_k)?,
                min_p: in_range("min_p", self.min_p, Filters::NONE.min_p, 0.0..=1.0)?,
                top_p: in_range("top_p", self.top_p, Filters::NONE.top_p, 0.0..=1.0)?,
            },
        })
    }

    fn penalties(&self) -> Result<Penalties, RequestError> {
        let of_answer = |name, asked| in_range(name, asked, 0.0, -2.0..=2.0);
        let repetition = self.repetition_penalty.unwrap_or(1.0);
        #[expect(clippy::cast_possible_truncation, reason = "logits are no f64 either")]
        let penalties = Penalties {
            repetition: repetition as f32,
            frequency: of_answer("frequency_penalty", self.frequency_penalty)? as f32,
            presence: of_answer("presence_penalty", self.presence_penalty)? as f32,
        };
        // Read as f32: what is not 0 there divides, and what is finite there multiplies.
        if !(penalties.repetition > 0.0 && penalties.repetition.is_finite()) {
            return Err(RequestError::invalid("repetition_penalty", "must be a number above 0"));
        }
        Ok(penalties)
    }
}

fn bias(entries: &[(u32, f64)], vocab: usize) -> Result<Arc<[(u32, f32)]>, RequestError> {
    let refused = |message: String| Err(RequestError::invalid("logit_bias", message));
    if entries.len() > MAX_BIASED_TOKENS {
        return refused(format!("{} tokens, at most {MAX_BIASED_TOKENS} are allowed", entries.len()));
    }
    if let Some((id, _)) = entries.iter().find(|(id, _)| *id as usize >= vocab) {
        return refused(format!("token id {id} is outside the vocabulary of {vocab} tokens"));
    }
    if let Some((id, _)) = entries.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias)) {
        return refused(format!("the bias of token id {id} must be between -100 and 100"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "logits are no f64 either")]
    Ok(entries.iter().map(|(id, bias)| (*id, *bias as f32)).collect())
}

fn top_k(asked: Option<i64>) -> Result<usize, RequestError> {
    match asked {
        None | Some(0 | -1) => Ok(Filters::NONE.top_k),
        Some(count) => usize::try_from(count)
            .map_err(|_| RequestError::invalid("top_k", "must be at least 1, or 0 or -1 for all tokens")),
    }
}

fn in_range(
    name: &str,
    asked: Option<f64>,
    usual: f64,
    range: RangeInclusive<f64>,
) -> Result<f64, RequestError> {
    let value = asked.unwrap_or(usual);
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("must be between {} and {}", range.start(), range.end());
    Err(RequestError::invalid(name, message))
}
