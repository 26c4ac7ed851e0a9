//! What a client may say about the choice of tokens beside the temperature: [`SamplingOptions`], and checked,
//! [`SamplingParams`].

use std::sync::Arc;

use super::request::{Limits, RequestError};

/// As a client says it; the default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingOptions {
    /// Tokens of the answer before which it cannot end by end-of-text.
    pub min_tokens: Option<usize>,
    /// Never end by end-of-text.
    pub ignore_eos: bool,
}

/// What is done to a sequence's logits, in range. Made only by [`SamplingOptions::resolve`].
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Tokens that are no candidates at the first `excluded_before` positions of the answer: the end-of-text tokens.
    pub excluded: Arc<[u32]>,
    /// How many positions of the answer that holds for; 0 for none.
    pub excluded_before: usize,
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
        let excluded_before = if self.ignore_eos { max_tokens } else { min_tokens };
        Ok(SamplingParams { excluded: limits.eos_ids.as_slice().into(), excluded_before })
    }
}
