//! What the replies of `POST /v1/chat/completions` look like.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Answer, Head, Piece, Shape};
use super::logprobs::ChatLogprobs;
use super::progress::{DiffusionPart, StepProgress};
use super::schema::{DiffusionReport, Usage};
use crate::service::scored::ScoredToken;

/// Whole answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// Of this reply alone.
    #[schema(example = "chatcmpl-0f3b62a7c1d94e58a6b7c8d9e0f1a2b3")]
    pub id: String,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// When the request was taken, in Unix seconds.
    #[schema(minimum = 0)]
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Tokens in and out.
    pub usage: Usage,
}

/// One answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Which answer, from 0.
    #[schema(minimum = 0)]
    pub index: usize,
    /// What the model says.
    pub message: ChatAnswer,
    /// `stop` (end-of-text or a stop string) or `length`.
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
    /// Log-probabilities of the text's tokens; null unless asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// What the answer cost.
    pub diffusion: Option<DiffusionReport>,
}

/// What the model says.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatAnswer {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Always null.
    #[schema(required = true, value_type = Option<String>)]
    pub refusal: (),
}

/// A part of the answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// The same on all chunks of a stream.
    #[schema(example = "chatcmpl-0f3b62a7c1d94e58a6b7c8d9e0f1a2b3")]
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: &'static str,
    /// When the request was taken, in Unix seconds.
    #[schema(minimum = 0)]
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// One choice; the usage chunk has none.
    pub choices: Vec<ChatChunkChoice>,
    /// Tokens in and out, only if asked for: null but on the last chunk, or all with the counts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// A part of one answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Which answer, from 0.
    #[schema(minimum = 0)]
    pub index: usize,
    /// What came to it.
    pub delta: ChatDelta,
    /// `stop` (end-of-text or a stop string) or `length`; null while the answer goes on.
    #[schema(required = true)]
    pub finish_reason: Option<&'static str>,
    /// Log-probabilities of the tokens whose text is out; null unless asked for.
    #[schema(required = true)]
    pub logprobs: Option<ChatLogprobs>,
    /// What the answer cost, on the chunk with `finish_reason`; on chunks of `progress` what a step did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<DiffusionPart>,
}

/// What came to an answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChatDelta {
    /// `assistant`, on an answer's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text that will not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Replies of the endpoint.
pub(super) struct Turns {
    pub head: Head,
    /// Whether scores of tokens are shown.
    pub scored: bool,
}

impl Turns {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Option<Usage>>) -> ChatCompletionChunk {
        let Head { id, created, model } = self.head.clone();
        ChatCompletionChunk { id, object: "chat.completion.chunk", created, model, choices, usage }
    }

    fn logprobs(&self, tokens: &[ScoredToken]) -> Option<ChatLogprobs> {
        self.scored.then(|| ChatLogprobs::new(tokens))
    }
}

impl Shape for Turns {
    type Whole = ChatCompletion;
    type Chunk = ChatCompletionChunk;

    fn whole(self, answers: Vec<Answer>, usage: Usage) -> ChatCompletion {
        let choice = |(index, answer): (usize, Answer)| ChatChoice {
            index,
            message: ChatAnswer { role: "assistant", content: answer.text, refusal: () },
            finish_reason: answer.end.map(|end| end.finish_reason),
            logprobs: self.logprobs(&answer.tokens),
            diffusion: answer.end.map(|end| end.diffusion),
        };
        let choices = answers.into_iter().enumerate().map(choice).collect();
        let Head { id, created, model } = self.head;
        ChatCompletion { id, object: "chat.completion", created, model, choices, usage }
    }

    fn piece(&self, index: usize, piece: Piece, usage: Option<Option<Usage>>) -> Option<ChatCompletionChunk> {
        let bare = ChatChunkChoice {
            index,
            delta: ChatDelta::default(),
            finish_reason: None,
            logprobs: None,
            diffusion: None,
        };
        let choice = match piece {
            Piece::Opened => {
                let delta = ChatDelta { role: Some("assistant"), content: Some(String::new()) };
                ChatChunkChoice { delta, ..bare }
            }
            Piece::Step(step) => {
                let progress = Box::new(StepProgress::from(*step));
                ChatChunkChoice { diffusion: Some(DiffusionPart::Progress { progress }), ..bare }
            }
            Piece::Text(text, tokens) => ChatChunkChoice {
                delta: ChatDelta { role: None, content: Some(text) },
                logprobs: self.logprobs(&tokens),
                ..bare
            },
            Piece::Ended(text, tokens, end) => ChatChunkChoice {
                delta: ChatDelta { role: None, content: Some(text).filter(|text| !text.is_empty()) },
                finish_reason: Some(end.finish_reason),
                logprobs: self.logprobs(&tokens),
                diffusion: Some(DiffusionPart::Report(end.diffusion)),
                ..bare
            },
        };
        Some(self.chunk(vec![choice], usage))
    }

    fn usage(&self, usage: Usage) -> ChatCompletionChunk {
        self.chunk(Vec::new(), Some(Some(usage)))
    }
}
