//! Log-probabilities of tokens on the wire, in OpenAI's two shapes.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::service::scored::{ScoredToken, TextPart, TokenText};

/// Most alternatives per token that a completion reports.
pub const COMPLETION_ALTERNATIVES: i64 = 5;

/// Most alternatives per token that a chat completion reports.
pub const CHAT_ALTERNATIVES: i64 = 20;

/// Log-probabilities of a completion's tokens, one entry per token in every list. An end-of-text token comes last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Characters of the text before the token.
    pub text_offset: Vec<usize>,
    /// Log-probability of the token; null for the first one of an echoed prompt that is scored by the chain rule, before which
    /// there is nothing.
    pub token_logprobs: Vec<Option<f32>>,
    /// The token; `bytes:\xe4` if it is a part of a character.
    pub tokens: Vec<String>,
    /// The most probable tokens in its place, and the token itself; null where there is no log-probability.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
}

/// Log-probabilities of the tokens of a turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry per token of the text.
    pub content: Vec<ChatTokenLogprob>,
    /// Always null.
    #[schema(required = true, value_type = Option<Vec<Object>>)]
    pub refusal: (),
}

/// A token and what else could have stood in its place.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// The token; `\xe4` if it is a part of a character.
    pub token: String,
    /// Its log-probability (natural logarithm).
    #[schema(maximum = 0)]
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most probable tokens in its place, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// What could have stood in a token's place.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopLogprob {
    /// The token; `\xe4` if it is a part of a character.
    pub token: String,
    /// Its log-probability (natural logarithm).
    #[schema(maximum = 0)]
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The number of alternatives a client asks for.
///
/// # Errors
/// It is negative or above `most`.
pub fn alternatives(param: &str, asked: Option<i64>, most: i64) -> Result<Option<usize>, ApiError> {
    let refused = || ApiError::invalid(param, format!("must be between 0 and {most}"));
    let checked = |count: i64| usize::try_from(count).ok().filter(|_| count <= most).ok_or_else(refused);
    asked.map(checked).transpose()
}

/// A token as text, or the bytes of a part of a character behind `prefix`.
pub(super) fn spelled(token: &TokenText, prefix: &str) -> String {
    match std::str::from_utf8(&token.bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => token.bytes.iter().fold(prefix.to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
    }
}

impl CompletionLogprobs {
    /// Of these tokens.
    pub fn new(tokens: &[ScoredToken]) -> Self {
        let mut logprobs = Self::default();
        for ScoredToken { token, log_probability, alternatives, offset, .. } in tokens {
            let text = spelled(token, "bytes:");
            let top = log_probability.map(|log_probability| {
                let mut top = BTreeMap::from([(text.clone(), log_probability)]);
                for (token, log) in alternatives {
                    // Of two tokens that read the same the token itself stays, or the more probable one.
                    top.entry(spelled(token, "bytes:")).or_insert(*log);
                }
                top
            });
            logprobs.text_offset.push(*offset);
            logprobs.token_logprobs.push(*log_probability);
            logprobs.tokens.push(text);
            logprobs.top_logprobs.push(top);
        }
        logprobs
    }
}

impl ChatLogprobs {
    /// Of these tokens; end-of-text is no content.
    pub fn new(tokens: &[ScoredToken]) -> Self {
        let one = |scored: &ScoredToken| {
            let logprob = scored.log_probability?;
            let top = |(token, log): &(TokenText, f32)| TopLogprob {
                token: spelled(token, ""),
                logprob: *log,
                bytes: token.bytes.clone(),
            };
            Some(ChatTokenLogprob {
                token: spelled(&scored.token, ""),
                logprob,
                bytes: scored.token.bytes.clone(),
                top_logprobs: scored.alternatives.iter().map(top).collect(),
            })
        };
        let content = tokens.iter().filter(|token| token.part == TextPart::Answer);
        Self { content: content.filter_map(one).collect(), refusal: () }
    }
}
