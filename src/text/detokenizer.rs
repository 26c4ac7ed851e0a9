//! From blocks of token ids to text that can no longer change.

use std::sync::Arc;

use super::Tokenizer;

/// Decodes an answer block by block. What it gives out, joined, is the one-shot decoding of all ids: it keeps back what
/// more tokens may still change, an unfinished UTF-8 character or an open run of byte tokens.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    ids: Vec<u32>,
    /// Bytes of text given out.
    given: usize,
}

impl Detokenizer {
    /// For one answer.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
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
        let text = self.tokenizer.decode(&self.ids[..tokens.min(self.ids.len())]);
        text.trim_end_matches(char::REPLACEMENT_CHARACTER).len()
    }

    /// The smallest number of tokens whose text has at least `bytes` bytes; all of them if none has.
    pub fn tokens_for(&self, bytes: usize) -> usize {
        let (mut low, mut high) = (0, self.ids.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.tokenizer.decode(&self.ids[..middle]).len() >= bytes {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    fn give(&mut self, text: &str) -> String {
        let fresh = text.get(self.given..).unwrap_or_default().to_owned();
        self.given += fresh.len();
        fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Letters and multi-byte characters, plus `<0xHH>` tokens and a special token in between.
    fn byte_fallback() -> Arc<Tokenizer> {
        let mut vocab = serde_json::Map::new();
        for text in ["<eos>", "a", "b", "▁the", "é", "你"] {
            vocab.insert(text.to_owned(), json!(vocab.len()));
        }
        for byte in 0..=255_u8 {
            vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
        }
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        build(json!({"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true}), decoder)
    }

    /// One token per byte, in GPT-2's alphabet.
    fn byte_level() -> Arc<Tokenizer> {
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut vocab = serde_json::Map::from_iter([("<eos>".to_owned(), json!(0))]);
        for letter in alphabet {
            vocab.insert(letter.to_string(), json!(vocab.len()));
        }
        let decoder =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        build(json!({"type": "BPE", "vocab": vocab, "merges": []}), decoder)
    }

    fn word_piece() -> Arc<Tokenizer> {
        let words = ["<eos>", "[UNK]", "un", "##able", "##s", "word", ".", "'", "n't", "do"];
        let vocab: serde_json::Map<_, _> =
            words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), json!(i))).collect();
        let model = json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]",
                           "continuing_subword_prefix": "##", "max_input_chars_per_word": 100});
        build(model, json!({"type": "WordPiece", "prefix": "##", "cleanup": true}))
    }

    fn build(model: serde_json::Value, decoder: serde_json::Value) -> Arc<Tokenizer> {
        let pre_tokenizer = if decoder["type"] == "ByteLevel" { decoder.clone() } else { json!(null) };
        let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
            {"id": 0, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model});
        Arc::new(Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer"))
    }

    fn streamed(tokenizer: &Arc<Tokenizer>, blocks: &[Vec<u32>]) -> String {
        let mut detokenizer = Detokenizer::new(tokenizer.clone());
        let mut text: String = blocks.iter().map(|block| detokenizer.push(block)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    #[test]
    fn an_unfinished_character_waits_for_its_bytes() {
        let tokenizer = byte_level();
        let bytes: Vec<u32> = tokenizer.encode("h你").expect("bytes have tokens");
        let mut detokenizer = Detokenizer::new(tokenizer);
        assert_eq!(bytes.len(), 4);
        assert_eq!(detokenizer.push(&bytes[..2]), "h");
        assert_eq!(detokenizer.push(&bytes[2..3]), "");
        assert_eq!(detokenizer.push(&bytes[3..]), "你");
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn an_open_run_of_byte_tokens_waits_for_its_end() {
        let tokenizer = byte_fallback();
        let byte = |b: u8| 6 + u32::from(b);
        let mut detokenizer = Detokenizer::new(tokenizer);
        assert_eq!(detokenizer.push(&[1, byte(b'x')]), "a");
        assert_eq!(detokenizer.push(&[0, byte(0xFF)]), "");
        assert_eq!(detokenizer.push(&[2]), "\u{FFFD}\u{FFFD}b");
    }

    #[test]
    fn the_token_that_completes_a_text_is_counted() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode("abcd").expect("bytes have tokens");
        let mut detokenizer = Detokenizer::new(tokenizer);
        detokenizer.push(&ids);
        assert_eq!([0, 1, 3, 9].map(|bytes| detokenizer.tokens_for(bytes)), [0, 1, 3, 4]);
        assert_eq!([0, 1, 3, 9].map(|tokens| detokenizer.bytes_of(tokens)), [0, 1, 3, 4]);
    }

    #[test]
    fn the_bytes_of_tokens_make_the_text() {
        let of = |tokenizer: &Tokenizer, ids: &[u32]| -> Vec<u8> {
            ids.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect()
        };
        let tokenizer = byte_level();
        assert_eq!(of(&tokenizer, &tokenizer.encode(" a你\n").expect("bytes")), " a你\n".as_bytes());
        let tokenizer = byte_fallback();
        // A token that begins a word has its space, also alone.
        assert_eq!(of(&tokenizer, &[1, 3, 6 + 0xC3, 6 + 0xA9, 5]), "a theé你".as_bytes());
        assert_eq!(of(&tokenizer, &[0]), b"<eos>");
        let tokenizer = word_piece();
        assert_eq!(of(&tokenizer, &[2, 3, 5]), b" unable word");
        assert_eq!(of(&tokenizer, &[9999]), b"");
    }

    fn blocks() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0..300_u32, 0..6), 0..8)
    }

    proptest! {
        #[test]
        fn streamed_text_is_the_one_shot_text(blocks in blocks(), kind in 0..3_usize) {
            let tokenizer = [byte_fallback, byte_level, word_piece][kind]();
            let blocks: Vec<Vec<u32>> = match kind {
                2 => blocks.into_iter().map(|b| b.into_iter().map(|id| id % 10).collect()).collect(),
                _ => blocks,
            };
            prop_assert_eq!(streamed(&tokenizer, &blocks), tokenizer.decode(&blocks.concat()));
        }

        #[test]
        fn streamed_text_is_the_encoded_text(text in "[a-z é你😀\u{300}]{0,12}", cuts in prop::collection::vec(1..5_usize, 0..20)) {
            let tokenizer = byte_level();
            let mut rest = tokenizer.encode(&text).expect("bytes have tokens").into_iter();
            let mut blocks: Vec<Vec<u32>> = cuts.iter().map(|n| rest.by_ref().take(*n).collect()).collect();
            blocks.push(rest.collect());
            prop_assert_eq!(streamed(&tokenizer, &blocks), text);
        }
    }
}
