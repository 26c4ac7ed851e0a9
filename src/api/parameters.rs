//! OpenAI's parameters, and vLLM's beside them, that would change an answer and that this server cannot honour: they are
//! refused with the reason, unless their value asks for nothing. `docs/api.md` lists every parameter.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ApiError;
use super::guided;

/// A parameter that is refused.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    name: &'static str,
    /// Values that ask for nothing, beside `null`.
    neutral: Neutral,
    reason: &'static str,
}

/// Values of a parameter that ask for nothing.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    /// `false`.
    False,
    /// An empty string, array or object.
    Empty,
    /// One of these strings.
    Words(&'static [&'static str]),
    /// The array of `text` alone.
    TextOnly,
    /// None.
    Never,
}

impl Neutral {
    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) | (Self::False, Value::Bool(false)) => true,
            (Self::Empty, Value::String(text)) => text.is_empty(),
            (Self::Empty, Value::Array(items)) => items.is_empty(),
            (Self::Empty, Value::Object(fields)) => fields.is_empty(),
            (Self::Words(words), Value::String(text)) => words.contains(&text.as_str()),
            (Self::TextOnly, Value::Array(items)) => items.as_slice() == ["text"],
            _ => false,
        }
    }
}

const fn refused(name: &'static str, neutral: Neutral, reason: &'static str) -> Refused {
    Refused { name, neutral, reason }
}

const TOOLS: &str = "the models served here call no tools";
const SCORES: &str = "echo with logprobs scores a prompt";

/// Refused by every endpoint that generates.
const EVERYWHERE: [Refused; 4] = [
    refused("use_beam_search", Neutral::False, "there is no order of tokens to search along"),
    refused("prompt_logprobs", Neutral::Never, SCORES),
    refused("guided_grammar", Neutral::Never, guided::NESTED),
    refused("guided_whitespace_pattern", Neutral::Never, guided::ONE_WAY),
];

/// Refused by `/v1/chat/completions` alone.
pub const CHAT: [Refused; 8] = [
    refused("tools", Neutral::Empty, TOOLS),
    refused("tool_choice", Neutral::Words(&["none", "auto"]), TOOLS),
    refused("functions", Neutral::Empty, TOOLS),
    refused("function_call", Neutral::Words(&["none", "auto"]), TOOLS),
    refused("modalities", Neutral::TextOnly, "answers are text"),
    refused("audio", Neutral::Never, "answers are text"),
    refused("prediction", Neutral::Never, "a predicted answer is not used"),
    refused("web_search_options", Neutral::Never, "the server searches nowhere"),
];

/// Check the parameters that an endpoint has no field for; `own` are those it refuses beside the common ones.
///
/// # Errors
/// One of them asks for what is not there.
pub fn check(rest: &BTreeMap<String, Value>, own: &[Refused]) -> Result<(), ApiError> {
    for Refused { name, neutral, reason } in EVERYWHERE.iter().chain(own) {
        if rest.get(*name).is_some_and(|value| !neutral.holds(value)) {
            return Err(ApiError::Unsupported { param: (*name).to_owned(), reason });
        }
    }
    if !rest.is_empty() {
        tracing::debug!(fields = ?rest.keys(), "fields without effect");
    }
    Ok(())
}
