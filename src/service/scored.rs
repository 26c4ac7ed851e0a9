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
    /// Its log-probability; the first token of a prompt has none.
    pub log_probability: Option<f32>,
    /// The most probable tokens in its place, best first.
    pub alternatives: Vec<(TokenText, f32)>,
    /// Characters of the text before it.
    pub offset: usize,
    /// What it is part of.
    pub part: TextPart,
}

/// What a token is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextPart {
    /// The prompt, where it is repeated.
    Prompt,
    /// The answer.
    Answer,
    /// Nothing of the text: it is the end-of-text token behind it.
    End,
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
            let part = if number < visible { TextPart::Answer } else { TextPart::End };
            self.add(score.id, Some(score.log_probability), score.alternatives, part);
        }
    }

    /// The prompt `text` goes before the answer: its tokens, the first and the scored others.
    pub fn prompt(&mut self, text: &str, first: u32, scores: Vec<TokenScore>) -> Vec<ScoredToken> {
        self.add(first, None, Vec::new(), TextPart::Prompt);
        for score in scores {
            self.add(score.id, Some(score.log_probability), score.alternatives, TextPart::Prompt);
        }
        (self.bytes, self.characters) = (0, text.chars().count());
        self.rest()
    }

    fn add(&mut self, id: u32, log: Option<f32>, alternatives: Vec<(u32, f32)>, part: TextPart) {
        let token = self.text(id);
        let (start, offset) = (self.bytes, self.characters);
        if part != TextPart::End {
            self.bytes += self.length(&token, start == 0);
        }
        if self.bytes > start {
            // Bytes that go on with a character begin none.
            self.characters += token.bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count();
        }
        let alternatives = alternatives.into_iter().map(|(id, log)| (self.text(id), log)).collect();
        let token = ScoredToken { token, log_probability: log, alternatives, offset, part };
        self.waiting.push_back((start..self.bytes, token));
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
