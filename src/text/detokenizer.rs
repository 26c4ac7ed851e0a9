//! Token ids to text that can no longer change.

use std::sync::Arc;

use super::Tokenizer;

/// Decodes an answer block by block. What it gives out, joined, is the one-shot decoding of all ids: it keeps back what
/// more tokens may still change, an unfinished UTF-8 character or an open run of byte tokens.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The token that goes before the text, if one does, and those of the text.
    ids: Vec<u32>,
    /// Tokens that go before the text.
    before: usize,
    /// Bytes of text given out, with what goes before.
    given: usize,
    /// Bytes of what goes before.
    skipped: usize,
}

impl Detokenizer {
    /// For a text of its own.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, ids: Vec::new(), before: 0, given: 0, skipped: 0 }
    }

    /// For a text that goes on where another ends, whose [`Tokenizer::last_word`] this is. Decoders treat the first token of
    /// a text in their own way, and then it is not this text's.
    pub fn behind(tokenizer: Arc<Tokenizer>, last: u32) -> Self {
        let skipped = tokenizer.decode(&[last]).len();
        Self { tokenizer, ids: vec![last], before: 1, given: skipped, skipped }
    }

    /// The next tokens; returns the text that became certain.
    pub fn push(&mut self, ids: &[u32]) -> String {
        self.ids.extend_from_slice(ids);
        let closed = self.ids.len() - self.tokenizer.open_run(&self.ids);
        // Decoded from the start each time: decoders treat the first token in their own way.
        let text = self.tokenizer.decode(&self.ids[..closed]);
        let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        self.give(&text[..certain])
    }

    /// No more tokens follow; returns what was kept back.
    pub fn finish(&mut self) -> String {
        let text = self.tokenizer.decode(&self.ids);
        self.give(&text)
    }

    /// Bytes of the text of the first `tokens` tokens, or of as many as there are, without an unfinished character.
    pub fn bytes_of(&self, tokens: usize) -> usize {
        let text = self.tokenizer.decode(&self.ids[..(self.before + tokens).min(self.ids.len())]);
        text.trim_end_matches(char::REPLACEMENT_CHARACTER).len().saturating_sub(self.skipped)
    }

    /// The smallest number of tokens whose text has at least `bytes` bytes; all of them if none has.
    pub fn tokens_for(&self, bytes: usize) -> usize {
        let (mut low, mut high) = (self.before, self.ids.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.tokenizer.decode(&self.ids[..middle]).len() >= self.skipped + bytes {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low - self.before
    }

    fn give(&mut self, text: &str) -> String {
        let fresh = text.get(self.given..).unwrap_or_default().to_owned();
        self.given += fresh.len();
        fresh
    }
}

#[cfg(test)]
mod tests;
