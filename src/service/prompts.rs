//! What an answer goes on from: texts, token ids or conversations, and the token ids that they become.

use super::{Ask, Service};
use crate::engine::request::RequestError;
use crate::text::chat_template::{Ending, Message};

/// Prompts of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompts {
    /// To be tokenized.
    Texts(Vec<String>),
    /// Tokenized by the client, used as they are.
    Ids(Vec<Vec<u32>>),
    /// One conversation, which the model's template makes a prompt of.
    Chat(Chat),
}

impl Prompts {
    /// Whether an answer goes on where the prompt ends. A turn of the model's is a text of its own.
    pub(super) fn go_on(&self) -> bool {
        match self {
            Self::Texts(_) | Self::Ids(_) => true,
            Self::Chat(chat) => chat.ending == Ending::Open,
        }
    }
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// The turns so far, at least one.
    pub messages: Vec<Message>,
    /// What the answer begins with.
    pub ending: Ending,
}

impl Service {
    pub(super) fn check_choices(&self, ask: &Ask) -> Result<(), RequestError> {
        let most = self.parts.max_choices;
        let prompts = match &ask.prompts {
            Prompts::Texts(texts) => texts.len(),
            Prompts::Ids(ids) => ids.len(),
            Prompts::Chat(_) => 1,
        };
        if prompts == 0 {
            return Err(RequestError::invalid("prompt", "must hold at least one prompt"));
        }
        if !(1..=most).contains(&ask.choices) {
            return Err(RequestError::invalid("n", format!("must be between 1 and {most}")));
        }
        let choices = prompts.saturating_mul(ask.choices);
        if choices > most {
            let message = format!(
                "{prompts} prompts with {} answers each are {choices} choices, at most {most} are allowed",
                ask.choices
            );
            return Err(RequestError::invalid("prompt", message));
        }
        Ok(())
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, RequestError> {
        // A tokenizer that adds special tokens would make a prompt of it, but nobody means that.
        if text.is_empty() {
            return Err(RequestError::invalid("prompt", "must not be empty"));
        }
        self.check_bytes("prompt", text)?;
        self.parts.tokenizer.encode(text).map_err(|e| RequestError::invalid("prompt", e.to_string()))
    }

    /// A text in the middle: the tokenizer adds nothing to it.
    pub(super) fn encode_suffix(&self, text: &str) -> Result<Vec<u32>, RequestError> {
        self.check_bytes("suffix", text)?;
        let ids = self.parts.tokenizer.encode_rendered(text);
        ids.map_err(|error| RequestError::invalid("suffix", error.to_string()))
    }

    pub(super) fn encode_chat(&self, chat: &Chat) -> Result<Vec<u32>, RequestError> {
        let text = self.render(chat)?;
        self.check_bytes("prompt", &text)?;
        let ids = self.parts.tokenizer.encode_rendered(&text);
        ids.map_err(|error| RequestError::invalid("messages", error.to_string()))
    }

    /// What the model's template makes of a conversation.
    pub(super) fn render(&self, chat: &Chat) -> Result<String, RequestError> {
        let unusable = |reason: String| RequestError::invalid("messages", reason);
        let Some(template) = &self.template else {
            let name = self.name();
            return Err(unusable(format!(
                "the model {name} has no chat template; /v1/completions needs none"
            )));
        };
        template.render_to(&chat.messages, chat.ending).map_err(|error| unusable(error.to_string()))
    }

    /// Megabytes take seconds to tokenize, only to be refused.
    fn check_bytes(&self, what: &str, text: &str) -> Result<(), RequestError> {
        let limits = &self.parts.limits;
        let tokens = limits.max_prompt_tokens.min(limits.max_canvas);
        if text.len() > tokens.saturating_mul(self.parts.tokenizer.longest_token()) {
            let message =
                format!("the {what} has {} bytes, which is more than {tokens} tokens hold", text.len());
            return Err(RequestError::TooLong { message });
        }
        Ok(())
    }
}
