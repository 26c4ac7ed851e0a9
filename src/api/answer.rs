//! The one way from a request to its reply: the endpoints that generate differ only in the shape of what they send.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Serialize;

use super::error::ApiError;
use super::schema::{Delivery, DiffusionReport, Usage, finish_reason};
use super::sse;
use crate::engine::{FinishReason, Progress};
use crate::service::scored::{ScoredToken, TextPart};
use crate::service::{Answers, Ask, Service, Speaker, StepText, TextEvent, random, unix_seconds};

/// What all bodies and chunks of one reply have in common.
#[derive(Debug, Clone)]
pub struct Head {
    /// `cmpl-…` or `chatcmpl-…`.
    pub id: String,
    /// When the request was taken, in Unix seconds.
    pub created: u64,
    /// The model that answers.
    pub model: String,
}

impl Head {
    /// A new reply of `speaker`, its id beginning with `kind`.
    pub fn new(kind: &str, speaker: &Speaker) -> Self {
        let id = format!("{kind}-{:016x}{:016x}", random(), random());
        Self { id, created: unix_seconds(), model: speaker.name.clone() }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End {
    /// OpenAI's word for why.
    pub finish_reason: &'static str,
    /// What the answer cost.
    pub diffusion: DiffusionReport,
}

impl End {
    /// From the engine's words.
    pub fn new(reason: FinishReason, progress: Progress) -> Self {
        Self { finish_reason: finish_reason(reason), diffusion: progress.into() }
    }
}

/// What a stream tells of one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// It runs; there is no text yet.
    Opened,
    /// What a denoising step left behind.
    Step(Box<StepText>),
    /// What came to its text, and the scores of the tokens behind it if asked for.
    Text(String, Vec<ScoredToken>),
    /// The last of its text and scores, and how it ended.
    Ended(String, Vec<ScoredToken>, End),
}

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// The scores of its tokens, if asked for.
    pub tokens: Vec<ScoredToken>,
    /// How it ended.
    pub end: Option<End>,
}

impl Answer {
    fn push(&mut self, text: &str, tokens: Vec<ScoredToken>) {
        self.text.push_str(text);
        self.tokens.extend(tokens);
    }

    /// Mean log-probability of its tokens, end-of-text included and the prompt not; an answer without any comes last.
    fn log_probability(&self) -> f64 {
        let own = self.tokens.iter().filter(|token| token.part != TextPart::Prompt);
        let logs: Vec<f64> = own.filter_map(|token| token.log_probability).map(f64::from).collect();
        if logs.is_empty() { f64::NEG_INFINITY } else { logs.iter().sum::<f64>() / logs.len() as f64 }
    }
}

/// What the replies of an endpoint look like.
pub trait Shape: Send + 'static {
    /// The body of a reply that is no stream.
    type Whole: Serialize;
    /// The data of one event of a stream.
    type Chunk: Serialize;

    /// All answers, in the order of the choices.
    fn whole(self, answers: Vec<Answer>, usage: Usage) -> Self::Whole;

    /// A piece of answer `index`, if it is worth an event. `usage`: `None` leaves the field out.
    fn piece(&self, index: usize, piece: Piece, usage: Option<Option<Usage>>) -> Option<Self::Chunk>;

    /// The chunk with the usage and no choices.
    fn usage(&self, usage: Usage) -> Self::Chunk;
}

/// Put a request to the model and reply in the wanted way.
///
/// # Errors
/// The request was not taken, or failed before the reply began.
pub async fn reply(
    service: Arc<Service>,
    ask: Ask,
    delivery: Delivery,
    shape: impl Shape,
) -> Result<Response, ApiError> {
    // Tokenizing a long prompt takes a while, and other connections must not wait for it.
    let answers = tokio::task::spawn_blocking(move || service.answer(ask)).await.map_err(|error| {
        tracing::error!(%error, "a request could not be prepared");
        ApiError::Internal
    })??;
    match delivery {
        Delivery::Whole => Ok(body(shape, whole(answers).await?)),
        Delivery::Best { of, kept } => {
            let (answers, usage) = whole(answers).await?;
            Ok(body(shape, (best(answers, of, kept), usage)))
        }
        Delivery::Stream { usage } => sse::stream(shape, answers, usage).await,
    }
}

/// Fold the same events that a stream would send.
async fn whole(answers: Answers) -> Result<(Vec<Answer>, Usage), ApiError> {
    let mut found = vec![Answer::default(); answers.streams.len()];
    let mut completion_tokens = 0;
    let prompt_tokens = answers.prompt_tokens;
    let mut events = answers.into_events();
    while let Some((index, event)) = events.next().await {
        let answer = &mut found[index];
        match event {
            TextEvent::Admitted | TextEvent::Step(_) => {}
            TextEvent::Block { text, tokens, .. } => answer.push(&text, tokens),
            TextEvent::Finished { text, tokens, reason, progress } => {
                answer.push(&text, tokens);
                answer.end = Some(End::new(reason, progress));
                completion_tokens += progress.tokens;
            }
            TextEvent::Failed(error) => return Err(error.into()),
        }
    }
    Ok((found, Usage::new(prompt_tokens, completion_tokens)))
}

fn body(shape: impl Shape, (answers, usage): (Vec<Answer>, Usage)) -> Response {
    Json(shape.whole(answers, usage)).into_response()
}

/// Of each `of` answers the `kept` most probable ones, best first (ties: the earlier).
fn best(answers: Vec<Answer>, of: usize, kept: usize) -> Vec<Answer> {
    let mut answers = answers.into_iter();
    let mut chosen = Vec::new();
    loop {
        let mut rivals: Vec<Answer> = answers.by_ref().take(of).collect();
        if rivals.is_empty() {
            return chosen;
        }
        rivals.sort_by(|a, b| b.log_probability().total_cmp(&a.log_probability()));
        chosen.extend(rivals.into_iter().take(kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::scored::TokenText;

    #[test]
    fn of_every_prompt_s_answers_the_most_probable_are_kept_best_first() {
        let answer = |text: &str, logs: &[f32]| {
            let token = |log: &f32| ScoredToken {
                token: TokenText { id: 5, bytes: Vec::new() },
                log_probability: Some(*log),
                alternatives: Vec::new(),
                offset: 0,
                part: TextPart::Answer,
            };
            Answer { text: text.to_owned(), tokens: logs.iter().map(token).collect(), end: None }
        };
        let answers = vec![
            answer("silent", &[]),
            // The mean counts, not the sum.
            answer("long", &[-0.5, -0.5, -0.5, -0.5]),
            answer("short", &[-1.0]),
            answer("other", &[-2.0]),
            answer("first of equals", &[-0.5, -0.25]),
            answer("second of equals", &[-0.25, -0.5]),
        ];
        let texts = |kept| best(answers.clone(), 3, kept).into_iter().map(|a| a.text).collect::<Vec<_>>();
        assert_eq!(texts(1), ["long", "first of equals"]);
        assert_eq!(texts(2), ["long", "short", "first of equals", "second of equals"]);
        assert_eq!(texts(3)[2], "silent");
    }
}
