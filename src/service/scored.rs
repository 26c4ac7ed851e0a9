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

    /// The prompt `text` goes before the answer: its tokens, a first one without a score and the scored others.
    pub fn prompt(&mut self, text: &str, unscored: Option<u32>, scores: Vec<TokenScore>) -> Vec<ScoredToken> {
        if let Some(first) = unscored {
            self.add(first, None, Vec::new(), TextPart::Prompt);
        }
        for score in scores {
            self.add(score.id, Some(score.log_probability), score.alternatives, TextPart::Prompt);
        }
        (self.bytes, self.characters) = (0, text.chars().count());
        self.rest()
    }

    fn add(&mut self, id: u32, log: Option<f32>, alternatives: Vec<(u32, f32)>, part: TextPart) {
        let mut token = self.text(id);
        let (start, offset) = (self.bytes, self.characters);
        if part != TextPart::End && !self.tokenizer.is_special(id) {
            if start == 0
                && let Some(first) = self.first(id)
            {
                token.bytes = first;
            }
            self.bytes += token.bytes.len();
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

    /// What a token makes at the beginning of a text, which decoders treat in their own way; `None` for a part of a
    /// character.
    fn first(&self, id: u32) -> Option<Vec<u8>> {
        let alone = self.tokenizer.decode(&[id]);
        (!alone.contains(char::REPLACEMENT_CHARACTER)).then(|| alone.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Its decoder leaves out the space before the first word.
    fn tokenizer() -> Arc<Tokenizer> {
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "WordLevel", "vocab": {"▁the": 0, "▁cat": 1, "?": 2}, "unk_token": "?"}});
        Arc::new(Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer"))
    }

    #[test]
    fn offsets_and_texts_of_tokens_are_those_of_the_text() {
        let mut track = ScoreTrack::new(tokenizer());
        let score = |id| TokenScore { id, log_probability: -1.0, alternatives: vec![] };
        let tokens = track.prompt("the cat the", Some(0), vec![score(1), score(0)]);
        let read: Vec<_> =
            tokens.iter().map(|t| (t.offset, String::from_utf8_lossy(&t.token.bytes).into_owned())).collect();
        assert_eq!(read, [(0, "the".to_owned()), (3, " cat".to_owned()), (7, " the".to_owned())]);
    }
}
