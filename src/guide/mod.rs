//! Guided decoding: answers that satisfy a rule (one of some texts, a regular expression, a JSON schema), whatever the order
//! in which their positions are decided.
//!
//! A [`Rule`] becomes a regular expression, this an automaton over bytes, and this with the [`Vocabulary`] of a model an
//! automaton over tokens, the [`Guide`]. A [`Track`] follows one answer along it: it knows for each position of the block
//! which tokens leave the answer a way to be completed. Pure: no tensors, no threads, no clock.

mod automaton;
mod bit_set;
mod byte_automaton;
mod json;
mod pattern;
mod schema;
mod track;
mod vocabulary;

use regex_syntax::hir::Hir;

pub use automaton::Guide;
pub use json::Json;
pub use track::{Candidates, Room, Track, TrackError};
pub use vocabulary::{Spelling, Vocabulary};

use byte_automaton::ByteAutomaton;

/// What a text must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// One of these.
    Choice(Vec<String>),
    /// What the expression matches as a whole.
    Regex(String),
    /// JSON that is valid under this schema.
    Schema(Json),
    /// A JSON object of any content, nested up to a bound.
    JsonObject,
}

/// Bounds of guides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuideLimits {
    /// Longest rule (expression, schema, all choices together), in bytes.
    pub max_bytes: usize,
    /// Most states of an automaton over bytes.
    pub max_states: usize,
    /// Most transitions of an automaton over tokens: states times classes of tokens, less those that cannot be.
    pub max_transitions: usize,
}

/// Why a rule makes no guide: a lowercase fragment for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GuideError(String);

impl GuideError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    fn too_large(reason: impl AsRef<str>) -> Self {
        Self(format!("is too large: {}", reason.as_ref()))
    }
}

impl Rule {
    /// The rule as a text, equal for equal rules.
    pub fn key(&self) -> String {
        match self {
            Self::Choice(texts) => format!("choice {texts:?}"),
            Self::Regex(pattern) => format!("regex {pattern}"),
            Self::Schema(schema) => format!("schema {schema}"),
            Self::JsonObject => "object".to_owned(),
        }
    }

    /// The automaton of a rule for the tokens of a model. Takes CPU time, within the limits up to seconds.
    ///
    /// # Errors
    /// What is wrong with the rule, or which limit it exceeds.
    pub fn compile(&self, vocabulary: &Vocabulary, limits: &GuideLimits) -> Result<Guide, GuideError> {
        let bytes = match self {
            Self::Choice(texts) => texts.iter().map(String::len).sum(),
            Self::Regex(pattern) => pattern.len(),
            Self::Schema(schema) => schema.to_string().len(),
            Self::JsonObject => 0,
        };
        if bytes > limits.max_bytes {
            let message = format!("it has {bytes} bytes, at most {} are allowed", limits.max_bytes);
            return Err(GuideError::too_large(message));
        }
        Guide::new(&ByteAutomaton::new(&self.expression()?, limits)?, vocabulary, limits)
    }

    fn expression(&self) -> Result<Hir, GuideError> {
        match self {
            Self::Choice(texts) if texts.is_empty() => Err(GuideError::new("must hold at least one text")),
            Self::Choice(texts) => {
                Ok(Hir::alternation(texts.iter().map(|text| pattern::literal(text)).collect()))
            }
            Self::Regex(expression) => pattern::parse(expression),
            Self::Schema(schema) => schema::expression(schema),
            Self::JsonObject => Ok(schema::any_object()),
        }
    }
}
