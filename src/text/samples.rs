//! Small tokenizers of the kinds that models have, for tests. Token 0 is special in all of them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Tokenizer;

/// Letters and multi-byte characters, plus `<0xHH>` tokens and a special token in between.
pub fn byte_fallback() -> Arc<Tokenizer> {
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
    let model = json!({"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true});
    build(json!({"decoder": decoder, "model": model}))
}

/// One token per byte, in GPT-2's alphabet.
pub fn byte_level() -> Arc<Tokenizer> {
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut vocab = serde_json::Map::from_iter([("<eos>".to_owned(), json!(0))]);
    for letter in alphabet {
        vocab.insert(letter.to_string(), json!(vocab.len()));
    }
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let model = json!({"type": "BPE", "vocab": vocab, "merges": []});
    build(json!({"pre_tokenizer": bytes, "decoder": bytes, "model": model}))
}

/// Whole words and parts of words.
pub fn word_piece() -> Arc<Tokenizer> {
    let words = ["<eos>", "[UNK]", "un", "##able", "##s", "word", ".", "'", "n't", "do"];
    let vocab: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), json!(i))).collect();
    let model = json!({"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]",
                       "continuing_subword_prefix": "##", "max_input_chars_per_word": 100});
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    build(json!({"pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": decoder, "model": model}))
}

/// As SentencePiece's are converted: a space is the first letter of a word, what has no token is spelled in bytes. Newer
/// files say so by `Metaspace`, older ones by steps.
pub fn sentence_piece(metaspace: bool) -> Arc<Tokenizer> {
    let mut vocab = serde_json::Map::new();
    for text in ["<eos>", "<unk>", "▁", "▁a", "ab", "▁ab", "th", "▁th"] {
        vocab.insert(text.to_owned(), json!(vocab.len()));
    }
    for letter in 'a'..='z' {
        vocab.insert(letter.to_string(), json!(vocab.len()));
    }
    for byte in 0..=255_u8 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
    }
    let merges = json!([["▁", "a"], ["t", "h"], ["▁a", "b"], ["a", "b"], ["▁", "th"]]);
    let model =
        json!({"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": "<unk>", "byte_fallback": true});
    let space =
        |kind: &str, from: &str, to: &str| json!({"type": kind, "pattern": {"String": from}, "content": to});
    if metaspace {
        let words =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false});
        let decoders = json!([{"type": "ByteFallback"}, words]);
        let decoder = json!({"type": "Sequence", "decoders": decoders});
        return build(json!({"pre_tokenizer": words, "decoder": decoder, "model": model}));
    }
    let normalizers = json!([{"type": "Prepend", "prepend": "▁"}, space("Replace", " ", "▁")]);
    let decoders = json!([space("Replace", "▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                          {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
    build(json!({"normalizer": {"type": "Sequence", "normalizers": normalizers},
                 "decoder": {"type": "Sequence", "decoders": decoders}, "model": model}))
}

/// A `tokenizer.json` with these parts.
fn build(parts: Value) -> Arc<Tokenizer> {
    let mut json = json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "added_tokens": [
        {"id": 0, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true}]});
    for (name, part) in parts.as_object().into_iter().flatten() {
        json[name] = part.clone();
    }
    Arc::new(Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer"))
}
