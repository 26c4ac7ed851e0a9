//! From the blocks of a sequence to text that can no longer change.

use std::collections::VecDeque;
use std::sync::Arc;

use super::scored::{ScoreTrack, ScoredToken};
use super::step::StepText;
use super::stop::{Piece, StopFinder};
use crate::decode::TokenScore;
use crate::engine::{BlockEvent, FinishReason, Progress, Reader, SequenceError};
use crate::text::{Detokenizer, Tokenizer};

/// One message to the reader of an answer. `Admitted` comes first, exactly one of `Finished` and `Failed` last.
#[derive(Debug, Clone, PartialEq)]
pub enum TextEvent {
    /// The sequence runs.
    Admitted,
    /// A denoising step is done; only if asked for, and not told while the reader lags.
    Step(Box<StepText>),
    /// A block is done. Its text may be empty: what could still become a stop string or a character is held back.
    Block {
        /// What came to the text.
        text: String,
        /// The scores of the tokens whose text is out, if asked for.
        tokens: Vec<ScoredToken>,
        /// Visible tokens of the answer so far, also those whose text is held back.
        counted: usize,
    },
    /// The answer is complete.
    Finished {
        /// What was held back.
        text: String,
        /// The scores that were held back. If a stop string ended the answer, the last token is the last one of which a
        /// part is in the text.
        tokens: Vec<ScoredToken>,
        /// Why.
        reason: FinishReason,
        /// Final counts. If a stop string ended the answer, `tokens` ends with the token that completed it.
        progress: Progress,
    },
    /// The answer will not be completed.
    Failed(SequenceError),
}

/// The text of one answer. Dropping it cancels the sequence.
#[derive(Debug)]
pub struct TextStream {
    /// `None` once the last event is known.
    blocks: Option<Reader>,
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopFinder,
    /// Tokens before which no stop string counts.
    min_tokens: usize,
    scores: ScoreTrack,
    /// Bytes of text found certain, without the stop string.
    bytes: usize,
    echo: Option<Echo>,
    /// Events that follow the one that was given out last.
    later: VecDeque<TextEvent>,
}

/// A prompt that is repeated before its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Its text.
    pub text: String,
    /// If its tokens' scores are told, too: the first token, where that has none.
    pub scores: Option<Option<u32>>,
}

impl TextStream {
    /// Read a sequence's blocks as text that ends before the first of the stop strings.
    pub fn new(blocks: Reader, tokenizer: Arc<Tokenizer>, stops: Vec<String>) -> Self {
        let (scores, stops) = (ScoreTrack::new(tokenizer.clone()), StopFinder::new(stops));
        let detokenizer = Detokenizer::new(tokenizer.clone());
        Self {
            blocks: Some(blocks),
            tokenizer,
            detokenizer,
            stops,
            min_tokens: 0,
            scores,
            bytes: 0,
            echo: None,
            later: VecDeque::new(),
        }
    }

    /// As what goes on where a text ends, whose [`Tokenizer::last_word`] this is; `None`: as a text of its own.
    #[must_use]
    pub fn behind(mut self, last: Option<u32>) -> Self {
        if let Some(last) = last {
            self.detokenizer = Detokenizer::behind(Arc::clone(&self.tokenizer), last);
            self.scores.go_on();
        }
        self
    }

    /// No stop string ends the answer within its first `min_tokens` tokens.
    #[must_use]
    pub fn of_at_least(self, min_tokens: usize) -> Self {
        Self { min_tokens, ..self }
    }

    /// With the prompt before the answer.
    #[must_use]
    pub fn echoing(self, echo: Echo) -> Self {
        Self { echo: Some(echo), ..self }
    }

    /// The next event, or `None` after the last.
    pub async fn next(&mut self) -> Option<TextEvent> {
        if let Some(event) = self.later.pop_front() {
            return Some(event);
        }
        let event = self.blocks.as_mut()?.recv().await;
        Some(self.read(event))
    }

    /// As [`Self::next`], on a thread that may wait.
    pub fn blocking_next(&mut self) -> Option<TextEvent> {
        if let Some(event) = self.later.pop_front() {
            return Some(event);
        }
        let event = self.blocks.as_mut()?.blocking_recv();
        Some(self.read(event))
    }

    fn read(&mut self, event: Option<BlockEvent>) -> TextEvent {
        // An engine that drops a sequence without a last word has lost it, or its reader was too slow.
        match event.unwrap_or(BlockEvent::Failed(SequenceError::Backend)) {
            BlockEvent::Admitted => {
                if let Some(echo) = self.echo.take_if(|echo| echo.scores.is_none()) {
                    self.later.push_back(TextEvent::Block {
                        text: echo.text,
                        tokens: Vec::new(),
                        counted: 0,
                    });
                }
                TextEvent::Admitted
            }
            BlockEvent::Scored { scores } => self.prompt(scores),
            BlockEvent::Step { nfe, snapshot } => {
                TextEvent::Step(Box::new(StepText::new(nfe, *snapshot, &self.tokenizer)))
            }
            BlockEvent::Block { ids, scores, progress } => self.block(&ids, scores, progress),
            BlockEvent::Finished { reason, progress } => self.finish(reason, progress),
            BlockEvent::Failed(error) => {
                self.blocks = None;
                TextEvent::Failed(error)
            }
        }
    }

    fn prompt(&mut self, scores: Vec<TokenScore>) -> TextEvent {
        let Some(Echo { text, scores: Some(unscored) }) = self.echo.take() else {
            return TextEvent::Block { text: String::new(), tokens: Vec::new(), counted: 0 };
        };
        let tokens = self.scores.prompt(&text, unscored, scores);
        TextEvent::Block { text, tokens, counted: 0 }
    }

    fn block(&mut self, ids: &[u32], scores: Vec<TokenScore>, progress: Progress) -> TextEvent {
        self.scores.push(scores, ids.len());
        let certain = self.detokenizer.push(ids);
        match self.stops.push(&certain, self.detokenizer.bytes_of(self.min_tokens)) {
            Piece::Text(text) => {
                self.bytes += text.len();
                TextEvent::Block { text, tokens: self.scores.within(self.bytes), counted: progress.tokens }
            }
            Piece::Stop { text, stop_bytes } => {
                self.bytes += text.len();
                let tokens = self.scores.within(self.bytes);
                let last = self.stopped(String::new(), stop_bytes, progress);
                self.later.push_back(last);
                TextEvent::Block { text, tokens, counted: self.tokens_with(stop_bytes, progress) }
            }
        }
    }

    fn finish(&mut self, reason: FinishReason, progress: Progress) -> TextEvent {
        let certain = self.detokenizer.finish();
        match self.stops.push(&certain, self.detokenizer.bytes_of(self.min_tokens)) {
            Piece::Text(mut text) => {
                self.blocks = None;
                text.push_str(&self.stops.finish());
                TextEvent::Finished { text, tokens: self.scores.rest(), reason, progress }
            }
            Piece::Stop { text, stop_bytes } => {
                self.bytes += text.len();
                self.stopped(text, stop_bytes, progress)
            }
        }
    }

    /// A stop string of `stop_bytes` bytes ends the answer behind the text found certain; the engine learns it by the
    /// reader's leaving.
    fn stopped(&mut self, text: String, stop_bytes: usize, progress: Progress) -> TextEvent {
        if let Some(blocks) = self.blocks.take() {
            blocks.leave_content();
        }
        let visible = self.scores.begun_within(self.bytes);
        let progress = Progress { tokens: self.tokens_with(stop_bytes, progress), ..progress };
        TextEvent::Finished { text, tokens: visible, reason: FinishReason::Stop, progress }
    }

    /// Tokens of the text found certain and of a stop string behind it.
    fn tokens_with(&self, stop_bytes: usize, progress: Progress) -> usize {
        self.detokenizer.tokens_for(self.bytes + stop_bytes).min(progress.tokens)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::reader::{Writer, events};

    fn letters() -> Arc<Tokenizer> {
        let vocab: serde_json::Map<_, _> =
            ('a'..='z').enumerate().map(|(i, c)| (c.to_string(), json!(i))).collect();
        let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        Arc::new(Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer"))
    }

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(|b| u32::from(b - b'a')).collect()
    }

    fn progress(blocks: usize, tokens: usize) -> Progress {
        Progress { nfe: 2 * blocks, blocks, tokens, ..Progress::default() }
    }

    async fn read(stops: &[&str], written: Vec<BlockEvent>) -> (Vec<TextEvent>, Writer) {
        let (sender, receiver) = events(16);
        for event in written {
            sender.try_send(event).expect("the reader lives");
        }
        let stops = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stream = TextStream::new(receiver, letters(), stops);
        let mut found = Vec::new();
        loop {
            match stream.next().await {
                Some(event @ (TextEvent::Finished { .. } | TextEvent::Failed(_))) => {
                    found.push(event);
                    return (found, sender);
                }
                Some(event) => found.push(event),
                None => return (found, sender),
            }
        }
    }

    fn block(text: &str, blocks: usize, tokens: usize) -> BlockEvent {
        BlockEvent::Block { ids: ids(text), scores: Vec::new(), progress: progress(blocks, tokens) }
    }

    fn text_of(text: &str, counted: usize) -> TextEvent {
        TextEvent::Block { text: text.to_owned(), tokens: Vec::new(), counted }
    }

    #[tokio::test]
    async fn a_stop_string_across_blocks_ends_the_answer_and_the_sequence() {
        let blocks = vec![BlockEvent::Admitted, block("abc", 1, 3), block("defg", 2, 7)];
        let (events, sender) = read(&["cde"], blocks).await;
        let last = TextEvent::Finished {
            text: String::new(),
            tokens: Vec::new(),
            reason: FinishReason::Stop,
            progress: Progress { tokens: 5, ..progress(2, 7) },
        };
        let expected = [TextEvent::Admitted, text_of("ab", 3), text_of("", 5), last];
        assert_eq!(events, expected);
        assert!(sender.is_closed() && sender.reader_is_content());
    }

    #[tokio::test]
    async fn no_stop_string_is_completed_by_the_first_tokens() {
        let expected = [(1, ""), (2, "abx"), (6, "abxabx"), (7, "abxabx"), (8, "abxab"), (9, "abxabxabx")];
        for (min_tokens, expected) in expected {
            let (writer, reader) = events(16);
            let last = BlockEvent::Finished { reason: FinishReason::Length, progress: progress(3, 9) };
            for event in [block("abx", 1, 3), block("abxab", 2, 8), block("x", 3, 9), last] {
                writer.try_send(event).expect("the reader lives");
            }
            let stops = vec!["ab".to_owned(), "xabx".to_owned()];
            let mut stream = TextStream::new(reader, letters(), stops).of_at_least(min_tokens);
            let mut said = String::new();
            while let Some(event) = stream.next().await {
                if let TextEvent::Block { text, .. } | TextEvent::Finished { text, .. } = event {
                    said += &text;
                }
            }
            assert_eq!(said, expected, "{min_tokens}");
        }
    }

    #[tokio::test]
    async fn text_held_back_comes_with_the_end() {
        let finished = BlockEvent::Finished { reason: FinishReason::Length, progress: progress(1, 3) };
        let (events, _sender) = read(&["cx"], vec![block("abc", 1, 3), finished]).await;
        let (reason, progress) = (FinishReason::Length, progress(1, 3));
        let last = TextEvent::Finished { text: "c".into(), tokens: Vec::new(), reason, progress };
        assert_eq!(events, [text_of("ab", 3), last]);
    }

    /// Blocks of scored letters, read with stop strings: per event the tokens with their offsets.
    async fn scored(stops: &[&str], blocks: &[&str]) -> Vec<Vec<(String, usize)>> {
        let score = |id| TokenScore { id, log_probability: -0.5, alternatives: vec![(id, -0.5)] };
        let one = |text: &&str| {
            let BlockEvent::Block { ids, progress, .. } = block(text, 1, 1) else { unreachable!() };
            let scores = ids.iter().copied().map(score).collect();
            BlockEvent::Block { ids, scores, progress }
        };
        let mut written: Vec<BlockEvent> = blocks.iter().map(one).collect();
        written.push(BlockEvent::Finished { reason: FinishReason::Length, progress: progress(1, 1) });
        let named = |event| match event {
            TextEvent::Block { tokens, .. } | TextEvent::Finished { tokens, .. } => tokens
                .into_iter()
                .map(|scored| (String::from_utf8(scored.token.bytes).expect("letters"), scored.offset))
                .collect(),
            other => panic!("{other:?}"),
        };
        read(stops, written).await.0.into_iter().map(named).collect()
    }

    fn named(tokens: &[(&str, usize)]) -> Vec<(String, usize)> {
        tokens.iter().map(|(text, offset)| ((*text).to_owned(), *offset)).collect()
    }

    #[tokio::test]
    async fn scores_come_with_their_text() {
        let expected = [named(&[("a", 0), ("b", 1)]), named(&[("c", 2), ("d", 3)]), Vec::new()];
        assert_eq!(scored(&["cx"], &["abc", "d"]).await, expected);
        assert_eq!(scored(&["cx"], &["abc"]).await, [named(&[("a", 0), ("b", 1)]), named(&[("c", 2)])]);
        // What belongs to the stop string alone is not shown.
        assert_eq!(scored(&["cd"], &["abc", "de"]).await[1..], [Vec::new(), Vec::new()]);
    }

    #[tokio::test]
    async fn a_sequence_that_vanishes_is_a_failure() {
        let (sender, receiver) = events(1);
        drop(sender);
        let mut stream = TextStream::new(receiver, letters(), Vec::new());
        assert_eq!(stream.next().await, Some(TextEvent::Failed(SequenceError::Backend)));
        assert_eq!(stream.next().await, None);
    }
}
