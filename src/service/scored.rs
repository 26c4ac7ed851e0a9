//! Scores of tokens, in step with the text that is given out.

use std::borrow::Cow;
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
    /// With the bytes of the text that each token makes; those of an open group end nowhere yet.
    waiting: VecDeque<(Range<usize>, ScoredToken)>,
    /// Bytes and characters of the text before the open group.
    bytes: usize,
    characters: usize,
    group: Group,
    /// Whether the next token of the text is its first: the answer's if it is a text of its own, or the prompt's.
    begins: bool,
    /// Whether the answer is a text of its own.
    alone: bool,
}

/// Tokens that make text together: parts of a character, or byte tokens in a row.
#[derive(Debug, Default)]
struct Group {
    /// What they stand for.
    bytes: Vec<u8>,
    /// Whether they stand for one byte each. Such a run is text as a whole, or else each of its bytes is the character for
    /// what is none.
    run: bool,
    /// Bytes at the beginning of a run that are no part of a text which begins with it, if it is text.
    left_out: usize,
    /// So many of those that wait, the last ones.
    tokens: usize,
}

/// Whether what follows changes nothing about how these bytes read.
fn settled(bytes: &[u8]) -> bool {
    let end = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    std::str::from_utf8(end).err().is_none_or(|error| error.error_len().is_some())
}

/// Characters that begin in these bytes.
fn begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte & 0xC0) != 0x80).count()
}

impl ScoreTrack {
    /// For one text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let (waiting, group) = (VecDeque::new(), Group::default());
        Self { tokenizer, waiting, bytes: 0, characters: 0, group, begins: true, alone: true }
    }

    /// The answer is not a text of its own: it goes on where another ends.
    pub fn go_on(&mut self) {
        (self.begins, self.alone) = (false, false);
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
        self.begins = true;
        if let Some(first) = unscored {
            self.add(first, None, Vec::new(), TextPart::Prompt);
        }
        for score in scores {
            self.add(score.id, Some(score.log_probability), score.alternatives, TextPart::Prompt);
        }
        let tokens = self.rest();
        (self.bytes, self.characters, self.begins) = (0, text.chars().count(), self.alone);
        tokens
    }

    fn add(&mut self, id: u32, log: Option<f32>, alternatives: Vec<(u32, f32)>, part: TextPart) {
        let mut token = self.text(id);
        let silent = part == TextPart::End || self.tokenizer.is_special(id) || token.bytes.is_empty();
        let run = self.tokenizer.is_byte(id);
        if !silent && run != self.group.run {
            self.close();
            self.group.run = run;
        }
        let (start, offset) =
            (self.bytes + self.group.bytes.len(), self.characters + begun(&self.group.bytes));
        let raw = token.bytes.clone();
        if !silent
            && std::mem::take(&mut self.begins)
            && let Some(first) = self.first(id)
        {
            token.bytes = first;
        }
        // Whether a run is text, and what is left out of it, shows when it ends.
        if run {
            self.group.left_out += raw.len().saturating_sub(token.bytes.len());
        }
        let text = match (silent, run) {
            (true, _) => &[][..],
            (false, true) => &raw,
            (false, false) => &token.bytes,
        };
        self.group.bytes.extend_from_slice(text);
        let end = if text.is_empty() { start } else { usize::MAX };
        let alternatives = alternatives.into_iter().map(|(id, log)| (self.text(id), log)).collect();
        let token = ScoredToken { token, log_probability: log, alternatives, offset, part };
        self.waiting.push_back((start..end, token));
        self.group.tokens += usize::from(!self.group.bytes.is_empty());
        if !self.group.run && settled(&self.group.bytes) {
            self.close();
        }
    }

    /// The open group has all its tokens: find out where their text ends.
    fn close(&mut self) {
        let Group { bytes, run, left_out, tokens } = std::mem::take(&mut self.group);
        let torn = run && std::str::from_utf8(&bytes).is_err();
        let text = if torn {
            Cow::from(char::REPLACEMENT_CHARACTER.to_string().repeat(bytes.len()))
        } else {
            String::from_utf8_lossy(&bytes[left_out.min(bytes.len())..])
        };
        let (end, characters) = (self.bytes + text.len(), self.characters + text.chars().count());
        for (range, token) in self.waiting.iter_mut().rev().take(tokens) {
            if torn {
                let before = range.start - self.bytes;
                range.start = self.bytes + before * char::REPLACEMENT_CHARACTER.len_utf8();
                token.offset = self.characters + before;
            } else {
                range.start = range.start.saturating_sub(left_out).max(self.bytes);
                token.offset = token.offset.saturating_sub(left_out).max(self.characters);
            }
            *range = range.start.min(end)..end;
            token.offset = token.offset.min(characters);
        }
        (self.bytes, self.characters) = (end, characters);
    }

    /// The tokens whose text is within the first `bytes` bytes.
    pub fn within(&mut self, bytes: usize) -> Vec<ScoredToken> {
        self.take(|text| text.end <= bytes)
    }

    /// The tokens whose text begins within the first `bytes` bytes; the others are no part of the text.
    pub fn begun_within(&mut self, bytes: usize) -> Vec<ScoredToken> {
        self.close();
        self.take(|text| text.start < bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> Vec<ScoredToken> {
        self.close();
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::text::samples::{byte_fallback, byte_level, sentence_piece, word_piece};

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
    fn tokens_of_bytes_that_are_no_text_wait_for_what_is_shown_instead() {
        let score = |id| TokenScore { id, log_probability: -1.0, alternatives: vec![] };
        let tokenizer = byte_level();
        let byte = |byte: u8| {
            let is_it = |id: &u32| tokenizer.token_bytes(*id) == [byte];
            (1..257).find(is_it).expect("every byte has a token")
        };
        // Shown as "a", the sign for what is no character (3 bytes), "b", the same again, "c".
        let ids = [byte(b'a'), byte(0xFF), byte(b'b'), byte(0xE4), byte(0xBD), byte(b'c')];
        let mut track = ScoreTrack::new(tokenizer.clone());
        track.push(ids.map(score).to_vec(), ids.len());
        let mut counts = Vec::new();
        for bytes in [0, 1, 3, 4, 5, 8, 9] {
            counts.push(track.within(bytes).len());
        }
        assert_eq!(counts, [0, 1, 0, 1, 1, 0, 3]);
        let mut track = ScoreTrack::new(tokenizer.clone());
        track.push(ids.map(score).to_vec(), ids.len());
        let offsets: Vec<usize> = track.rest().iter().map(|token| token.offset).collect();
        assert_eq!(offsets, [0, 1, 2, 3, 4, 4]);
    }

    #[test]
    fn a_run_of_byte_tokens_that_is_no_text_is_a_sign_per_byte() {
        let score = |id| TokenScore { id, log_probability: -1.0, alternatives: vec![] };
        let byte = |byte: u8| 6 + u32::from(byte);
        // "a", then an x and two bytes that make no character together, a special token among them, then "b".
        let ids = [1, byte(b'x'), 0, byte(0xC3), byte(0xFF), 2];
        let mut track = ScoreTrack::new(byte_fallback());
        track.push(ids.map(score).to_vec(), ids.len());
        assert_eq!(track.within(9).len(), 1, "the run is not out yet");
        assert_eq!(track.within(10).iter().map(|token| token.offset).collect::<Vec<_>>(), [1, 2, 2, 3]);
        assert_eq!(track.within(11).iter().map(|token| token.offset).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn only_the_first_token_of_a_text_loses_its_space() {
        let score = |id| TokenScore { id, log_probability: -1.0, alternatives: vec![] };
        let byte = |byte: u8| 6 + u32::from(byte);
        for (ids, text) in [
            (vec![byte(b' '), byte(0x80)], "\u{FFFD}\u{FFFD}"),
            (vec![byte(b' '), byte(b'x'), 1], "xa"),
            (vec![byte(b' '), byte(b' '), 1], " a"),
            (vec![byte(b' '), 3], " the"),
            (vec![0, 3, 3], "the the"),
        ] {
            assert_eq!(byte_fallback().decode(&ids), text);
            let mut track = ScoreTrack::new(byte_fallback());
            track.push(ids.iter().map(|id| score(*id)).collect(), ids.len());
            track.rest();
            assert_eq!((track.bytes, track.characters), (text.len(), text.chars().count()), "{ids:?}");
        }
    }

    proptest! {
        #[test]
        fn the_tokens_of_a_text_add_up_to_it_whatever_they_are(
            kind in 0..4_usize, ids in prop::collection::vec(0..300_u32, 0..30), begins in any::<bool>(),
        ) {
            let tokenizer = [byte_fallback, byte_level, word_piece, || sentence_piece(true)][kind]();
            let ids: Vec<u32> = if kind == 2 { ids.iter().map(|id| id % 10).collect() } else { ids };
            let mut track = ScoreTrack::new(tokenizer.clone());
            let mut text = tokenizer.decode(&ids);
            if !begins {
                // Behind a word.
                track.go_on();
                let word = [1, 40, 5, 20][kind];
                let before = tokenizer.decode(&[word]).len();
                text = tokenizer.decode(&[&[word], &ids[..]].concat()).split_off(before);
            }
            let scores = ids.iter().map(|id| TokenScore { id: *id, log_probability: -1.0, alternatives: vec![] });
            track.push(scores.collect(), ids.len());
            prop_assert_eq!(track.rest().len(), ids.len());
            prop_assert_eq!((track.bytes, track.characters), (text.len(), text.chars().count()));
        }
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
