//! `tokenizer.json`: a damaged one is refused, or it reads and writes.

use evotoken::text::Tokenizer;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::memory;
use crate::spoil::{changes, cut, cuts, spoil};

const WORDS: &[&str] = &[
    "BPE",
    "WordPiece",
    "WordLevel",
    "Unigram",
    "ByteLevel",
    "ByteFallback",
    "Fuse",
    "Strip",
    "Replace",
    "Metaspace",
    "Sequence",
    "Split",
    "Whitespace",
    "WhitespaceSplit",
    "Digits",
    "Punctuation",
    "BertNormalizer",
    "BertPreTokenizer",
    "NFC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "Lowercase",
    "StripAccents",
    "Prepend",
    "TemplateProcessing",
    "RobertaProcessing",
    "BertProcessing",
    "CTC",
    "BPEDecoder",
    "Isolated",
    "MergedWithNext",
    "Regex",
    "String",
    "type",
    "vocab",
    "merges",
    "unk_token",
    "unk_id",
    "dropout",
    "content",
    "special",
    "normalized",
    "single_word",
    "é",
    "▁",
    "<0x61>",
    "##",
    "[UNK]",
    "always",
    "first",
    "never",
    "a b",
    "ab",
    "continuing_subword_prefix",
    "pattern",
    "max_input_chars_per_word",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
    "prepend_scheme",
    "replacement",
];

fn special(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": true, "normalized": false,
           "special": true})
}

fn whole(model: Value, normalizer: Value, pre: Value, post: Value, decoder: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "<eos>"), special(1, "[UNK]")],
           "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model})
}

fn vocab(words: &[&str]) -> Value {
    words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect::<Map<_, _>>().into()
}

/// One of every kind of model that tokenizers have, with all the parts around it.
pub fn sound(kind: usize) -> Value {
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<eos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [0], "tokens": ["<eos>"]}}});
    match kind {
        0 => {
            let words = ["<eos>", "[UNK]", "a", "b", "c", "ab", "abc", "Ġ", "Ġa"];
            let model = json!({"type": "BPE", "vocab": vocab(&words), "merges": [["a", "b"], ["ab", "c"], ["Ġ", "a"]],
                "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": "", "end_of_word_suffix": "",
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false});
            whole(model, json!({"type": "NFC"}), byte_level.clone(), template, byte_level)
        }
        1 => {
            let bytes: Vec<String> = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>")).collect();
            let mut words = vec!["<eos>", "[UNK]", "▁", "a", "b", "▁a", "ab"];
            words.extend(bytes.iter().map(String::as_str));
            let model = json!({"type": "BPE", "vocab": vocab(&words), "merges": ["▁ a", "a b"], "byte_fallback": true,
                "fuse_unk": true, "unk_token": "[UNK]"});
            let normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
            let decoder = json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
            let split = json!({"type": "Split", "pattern": {"Regex": "[0-9]+|\\s"}, "behavior": "Isolated", "invert": false});
            whole(model, normalizer, split, Value::Null, decoder)
        }
        2 => {
            let words = ["<eos>", "[UNK]", "un", "##able", "##s", "word", ".", "a", "##b"];
            let model = json!({"type": "WordPiece", "vocab": vocab(&words), "unk_token": "[UNK]",
                "continuing_subword_prefix": "##", "max_input_chars_per_word": 100});
            let normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true});
            let post = json!({"type": "BertProcessing", "sep": ["<eos>", 0], "cls": ["[UNK]", 1]});
            let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
            whole(model, normalizer, json!({"type": "BertPreTokenizer"}), post, decoder)
        }
        3 => {
            let model = json!({"type": "Unigram", "unk_id": 1, "byte_fallback": false,
                "vocab": [["<eos>", 0.0], ["[UNK]", 0.0], ["▁", -1.0], ["a", -1.5], ["b", -2.0], ["▁ab", -2.5]]});
            let meta =
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
            whole(model, json!({"type": "Lowercase"}), meta.clone(), template, meta)
        }
        _ => {
            let model = json!({"type": "WordLevel", "vocab": vocab(&["<eos>", "[UNK]", "a", "b", "a b"]), "unk_token": "[UNK]"});
            let pre = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                {"type": "Digits", "individual_digits": true}, {"type": "Punctuation", "behavior": "Removed"}]});
            let post = json!({"type": "Sequence", "processors": [byte_level, template]});
            whole(
                model,
                Value::Null,
                pre,
                post,
                json!({"type": "CTC", "pad_token": "<eos>", "word_delimiter_token": "|", "cleanup": true}),
            )
        }
    }
}

/// Whether it loads; what loads must read texts and write ids.
fn works(bytes: &[u8], text: &str) -> bool {
    let tokenizer = match Tokenizer::from_json(bytes) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            assert!(error.to_string().contains("tokenizer.json"), "{error}");
            return false;
        }
    };
    for ids in [tokenizer.encode(text), tokenizer.encode_rendered(text)].into_iter().flatten() {
        let _ = tokenizer.decode(&ids);
    }
    let ids: Vec<u32> = (0..12).chain([100, u32::MAX]).collect();
    let _ = (tokenizer.decode(&ids), tokenizer.decode_with_special(&ids), tokenizer.longest_token());
    true
}

#[test]
fn the_sound_tokenizers_work() {
    for kind in 0..5 {
        assert!(works(sound(kind).to_string().as_bytes(), "ab abc. <eos>"), "{kind}");
    }
}

proptest! {
    #[test]
    fn a_damaged_tokenizer_is_refused_or_works(
        kind in 0usize..5, changes in changes(WORDS), cuts in cuts(), text in select(vec!["", "ab c", "unables 12 é你", "a\u{301}<eos>\0 ▁"]),
    ) {
        let mut document = sound(kind);
        spoil(&mut document, &changes);
        let mut bytes = document.to_string().into_bytes();
        cut(&mut bytes, &cuts);
        works(&bytes, text);
        memory::check();
    }
}
