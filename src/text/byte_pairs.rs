//! Byte-level BPE tokenizers of models that have no `tokenizer.json`: what theirs would say.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value as Json, json};

/// GPT-2's splitting into words, with what is left of spaces as a word.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's: three digits at most.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's, which Dream has: one digit.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Bailing's. That LLaDA's GGUF files have it is inferred: its vocabulary looks like Bailing's.
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// What llama.cpp does where a file names nothing: one after the other.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];

/// How texts are prepared.
pub(super) struct Splitting {
    patterns: &'static [&'static str],
    /// Whether composed and decomposed characters are the same.
    composed: bool,
    /// Whether a word that is a token is that token, whatever the merges say.
    whole_words: bool,
}

impl Splitting {
    /// By llama.cpp's names.
    pub(super) fn of(name: &str) -> Option<Self> {
        let plain = |patterns| Self { patterns, composed: false, whole_words: false };
        Some(match name {
            "default" => plain(&DEFAULT),
            "gpt-2" => plain(&[GPT2]),
            "llama-bpe" | "llama3" | "llama-v3" => Self { whole_words: true, ..plain(&[LLAMA3]) },
            "qwen2" => Self { composed: true, ..plain(&[QWEN2]) },
            "bailingmoe" | "bailingmoe2" | "llada-moe" => plain(&[BAILING]),
            _ => return None,
        })
    }
}

/// What such a tokenizer is made of.
pub(super) struct BytePairs<'a> {
    /// How texts are split into words.
    pub splitting: Splitting,
    /// Ids of tokens by their names, special ones included.
    pub vocab: BTreeMap<&'a str, u32>,
    /// Pairs that are merged, the first ones first.
    pub merges: Vec<(&'a str, &'a str)>,
    /// Tokens that texts are searched for as a whole, in the form of a `tokenizer.json`.
    pub added: Vec<Json>,
    /// What is put in front of prompts, in the same form.
    pub beginning: Option<Json>,
}

impl BytePairs<'_> {
    /// The content of a `tokenizer.json`.
    pub(super) fn json(&self) -> Vec<u8> {
        let names: HashSet<&str> = self.vocab.keys().copied().collect();
        // A merge of or to what is no token can never be used, and the library refuses it.
        let known = |(left, right): &&(&str, &str)| {
            [*left, *right, &format!("{left}{right}")].iter().all(|part| names.contains(part))
        };
        let merges: Vec<_> = self.merges.iter().filter(known).collect();
        let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let steps: Vec<Json> = self.splitting.patterns.iter().map(split).chain([bytes.clone()]).collect();
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added,
            "normalizer": self.splitting.composed.then(|| json!({"type": "NFC"})),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": self.beginning,
            "decoder": bytes,
            "model": {"type": "BPE", "vocab": self.vocab, "merges": merges,
                      "ignore_merges": self.splitting.whole_words},
        });
        json.to_string().into_bytes()
    }
}
