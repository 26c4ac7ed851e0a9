//! Scores of tokens, in step with the text that is given out.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::decode::TokenScore;
use crate::text::Tokenizer;

/// A token as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenText {
    /// Its id.
    pub id: u32,
    /// What it stands for; a part of a character if that takes several tokens.
    pub bytes: Vec<u8>,
}

/// A token of a text and how probable it was, in natural logarithms.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    /// The token.
    pub token: TokenText,
    /// Its log-probability.
    pub log_probability: f32,
    /// The most probable tokens in its place, best first.
    pub alternatives: Vec<(TokenText, f32)>,
    /// Characters of the text before it.
    pub offset: usize,
    /// Whether it is the end-of-text token, which is no part of the text.
    pub ends: bool,
}

/// Holds the scores of tokens until their text is given out.
#[derive(Debug)]
pub(super) struct ScoreTrack {
    tokenizer: Arc<Tokenizer>,
    /// With the bytes of the text that each token makes.
    waiting: VecDeque<(Range<usize>, ScoredToken)>,
    bytes: usize,
    characters: usize,
}

impl ScoreTrack {
    /// For one text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, waiting: VecDeque::new(), bytes: 0, characters: 0 }
    }

    /// The next scores; the first `visible` are of tokens of the text, the rest of end-of-text.
    pub fn push(&mut self, scores: Vec<TokenScore>, visible: usize) {
        for (number, score) in scores.into_iter().enumerate() {
            let ends = number >= visible;
            let token = self.text(score.id);
            let start = self.bytes;
            let offset = self.characters;
            if !ends {
                self.bytes += self.length(&token, start == 0);
                // Bytes that go on with a character begin none.
                self.characters += match self.bytes - start {
                    0 => 0,
                    _ => token.bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count(),
                };
            }
            let alternatives = score.alternatives.into_iter().map(|(id, log)| (self.text(id), log)).collect();
            let log_probability = score.log_probability;
            let token = ScoredToken { token, log_probability, alternatives, offset, ends };
            self.waiting.push_back((start..self.bytes, token));
        }
    }

    /// The tokens whose text is within the first `bytes` bytes.
    pub fn within(&mut self, bytes: usize) -> Vec<ScoredToken> {
        self.take(|text| text.end <= bytes)
    }

    /// The tokens whose text begins within the first `bytes` bytes; the others are no part of the text.
    pub fn begun_within(&mut self, bytes: usize) -> Vec<ScoredToken> {
        self.take(|text| text.start < bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> Vec<ScoredToken> {
        self.take(|_| true)
    }

    fn take(&mut self, fits: impl Fn(&Range<usize>) -> bool) -> Vec<ScoredToken> {
        let count = self.waiting.iter().take_while(|(text, _)| fits(text)).count();
        self.waiting.drain(..count).map(|(_, token)| token).collect()
    }

    fn text(&self, id: u32) -> TokenText {
        TokenText { id, bytes: self.tokenizer.token_bytes(id) }
    }

    /// Bytes of text that a token makes. Decoders may treat the first token of a text in their own way.
    fn length(&self, token: &TokenText, first: bool) -> usize {
        if self.tokenizer.is_special(token.id) {
            return 0;
        }
        let alone = if first { self.tokenizer.decode(&[token.id]) } else { String::new() };
        match first && !alone.contains(char::REPLACEMENT_CHARACTER) {
            true => alone.len(),
            false => token.bytes.len(),
        }
    }
}
