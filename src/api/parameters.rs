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
    /// `true`.
    True,
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
            (_, Value::Null) | (Self::False, Value::Bool(false)) | (Self::True, Value::Bool(true)) => true,
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

/// vLLM's own, refused by every endpoint that generates.
const VLLM_S: [Refused; 12] = [
    refused(
        "stop_token_ids",
        Neutral::Empty,
        "the model's own end-of-text tokens end an answer; stop takes strings",
    ),
    refused("allowed_token_ids", Neutral::Empty, "logit_bias takes up to 300 tokens"),
    refused("bad_words", Neutral::Empty, "logit_bias holds single tokens back"),
    refused("logits_processors", Neutral::Empty, "requests bring no code"),
    refused("include_stop_str_in_output", Neutral::False, "a stop string is not part of the answer"),
    refused("skip_special_tokens", Neutral::True, "special tokens are no text"),
    refused("truncate_prompt_tokens", Neutral::Never, "a prompt is answered whole or refused"),
    refused("return_tokens_as_token_ids", Neutral::False, "logprobs show tokens as text"),
    refused("return_token_ids", Neutral::False, "/tokenize tells token ids"),
    refused(
        "chat_template",
        Neutral::Never,
        "the model's own template is used; /v1/completions takes a text as it is",
    ),
    refused("chat_template_kwargs", Neutral::Empty, "the template gets the messages only"),
    refused("documents", Neutral::Empty, "the template gets the messages only"),
];

/// Refused by `/v1/completions` alone.
pub const COMPLETION: [Refused; 1] = [refused(
    "add_special_tokens",
    Neutral::True,
    "a text gets what its tokenizer adds; token ids are used as they are",
)];

/// Refused by `/v1/chat/completions` alone.
pub const CHAT: [Refused; 9] = [
    refused("add_special_tokens", Neutral::False, "the model's template has its special tokens"),
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
    for Refused { name, neutral, reason } in EVERYWHERE.iter().chain(&VLLM_S).chain(own) {
        if rest.get(*name).is_some_and(|value| !neutral.holds(value)) {
            return Err(ApiError::Unsupported { param: (*name).to_owned(), reason });
        }
    }
    if !rest.is_empty() {
        tracing::debug!(fields = ?rest.keys(), "fields without effect");
    }
    Ok(())
}
