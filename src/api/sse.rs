//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::answer::{End, Piece, Shape};
use super::error::ApiError;
use super::schema::{StreamUsage, Usage};
use crate::service::{Answers, Events, TextEvent};

/// A comment this often keeps proxies from cutting a connection on which a block takes long.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Reply once the first answer runs, so that a refusal before is a real status. Dropping the reply cancels the answers.
///
/// # Errors
/// The first answer could not even start.
pub async fn stream(shape: impl Shape, answers: Answers, usage: StreamUsage) -> Result<Response, ApiError> {
    let prompt_tokens = answers.prompt_tokens;
    let completion_tokens = vec![0; answers.streams.len()];
    let mut events = answers.into_events();
    let mut ready = VecDeque::new();
    match events.next().await {
        Some((_, TextEvent::Failed(error))) => return Err(error.into()),
        first => ready.extend(first),
    }
    let (seen, ready) = (ready, VecDeque::new());
    let chunks = Chunks { shape, events, seen, usage, prompt_tokens, completion_tokens, ready, over: false };
    let body = stream::unfold(chunks, |mut chunks| async move {
        Some((Ok::<_, Infallible>(chunks.next().await?), chunks))
    });
    let mut response = Sse::new(body).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx would otherwise collect the blocks.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response.headers_mut().extend([unbuffered]);
    Ok(response)
}

struct Chunks<S> {
    shape: S,
    events: Events,
    /// Events read before the reply began.
    seen: VecDeque<(usize, TextEvent)>,
    usage: StreamUsage,
    prompt_tokens: usize,
    /// Of each answer, so far.
    completion_tokens: Vec<usize>,
    ready: VecDeque<Event>,
    over: bool,
}

impl<S: Shape> Chunks<S> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let event = match self.seen.pop_front() {
                None => self.events.next().await,
                seen => seen,
            };
            match event {
                Some((index, event)) => self.take(index, event),
                None => self.end(),
            }
        }
    }

    fn take(&mut self, index: usize, event: TextEvent) {
        match event {
            TextEvent::Admitted => self.push_piece(index, Piece::Opened),
            TextEvent::Step(step) => self.push_piece(index, Piece::Step(step)),
            TextEvent::Block { text, tokens, counted } => {
                self.completion_tokens[index] = counted;
                self.push_piece(index, Piece::Text(text, tokens));
            }
            TextEvent::Finished { text, tokens, reason, progress } => {
                self.completion_tokens[index] = progress.tokens;
                self.push_piece(index, Piece::Ended(text, tokens, End::new(reason, progress)));
            }
            TextEvent::Failed(error) => {
                let (_, body) = ApiError::from(error).reply();
                self.push(&body);
                // Nobody reads the other answers any more.
                self.events.clear();
                self.over = true;
            }
        }
    }

    fn end(&mut self) {
        if self.usage != StreamUsage::Off {
            let last = self.shape.usage(self.so_far());
            self.push(&last);
        }
        self.ready.push_back(Event::default().data("[DONE]"));
        self.over = true;
    }

    fn push_piece(&mut self, index: usize, piece: Piece) {
        let usage = match self.usage {
            StreamUsage::Off => None,
            StreamUsage::Last => Some(None),
            StreamUsage::Every => Some(Some(self.so_far())),
        };
        if let Some(chunk) = self.shape.piece(index, piece, usage) {
            self.push(&chunk);
        }
    }

    fn so_far(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.completion_tokens.iter().sum())
    }

    fn push(&mut self, data: &impl Serialize) {
        let event = Event::default().json_data(data).expect("replies are plain data with string keys");
        self.ready.push_back(event);
    }
}
