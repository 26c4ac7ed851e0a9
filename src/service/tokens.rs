//! Text to token ids and back, for clients that count or cut their prompts themselves. No limit of requests holds here:
//! a text may be measured that is too long to be answered.

use super::{Chat, Service};
use crate::engine::request::RequestError;

/// What is to be tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A text.
    Text(String),
    /// A conversation, by the model's template.
    Chat(Chat),
}

impl Service {
    /// Most tokens of a prompt and its answer together.
    pub fn max_tokens(&self) -> usize {
        self.parts.limits.max_canvas
    }

    /// Token ids, with what the tokenizer adds to a prompt if `special`; by default it does so to a text and not to a
    /// conversation, whose template has it. Takes CPU time for long texts.
    ///
    /// # Errors
    /// The model has no template, it refuses the messages, or the tokenizer does not know a character.
    pub fn tokenize(&self, source: &Source, special: Option<bool>) -> Result<Vec<u32>, RequestError> {
        let (param, text, usual) = match source {
            Source::Text(text) => ("prompt", text.clone(), true),
            Source::Chat(chat) => ("messages", self.render(chat)?, false),
        };
        let tokenizer = &self.parts.tokenizer;
        let ids = match special.unwrap_or(usual) {
            true => tokenizer.encode(&text),
            false => tokenizer.encode_rendered(&text),
        };
        ids.map_err(|error| RequestError::invalid(param, error.to_string()))
    }

    /// How the vocabulary spells tokens; one that it does not have is an empty text.
    pub fn token_names(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|id| self.parts.tokenizer.name(*id).unwrap_or_default()).collect()
    }

    /// The text of token ids, special tokens included.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, RequestError> {
        let vocab = self.parts.limits.vocab;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            let message = format!("token id {id} is outside the vocabulary of {vocab} tokens");
            return Err(RequestError::invalid("tokens", message));
        }
        Ok(self.parts.tokenizer.decode_with_special(ids))
    }
}
