//! The Countdown tokenizer: numbers 0..=255 and the fixed parts of the prompt are one token each; anything else is
//! bytes, so that every text comes back as it was.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

/// Padding.
pub const PAD: u32 = 0;
/// The mask token.
pub const MASK: u32 = 1;
/// End-of-text.
pub const EOS: u32 = 2;
/// Start of text, added in front of every prompt.
pub const BOS: u32 = 3;

const SPECIAL: [&str; 4] = ["<pad>", "<mask>", "<eos>", "<bos>"];
const PIECES: [&str; 9] = ["+", "-", "*", "/", "(", ")", "Numbers: [", ", ", "]\nTarget: "];
const BYTES: u32 = 256;
const NUMBERS: u32 = 256;

/// Number of tokens.
pub const VOCABULARY: usize = SPECIAL.len() + (BYTES + NUMBERS) as usize + PIECES.len();

/// The tokenizer of a model folder.
///
/// # Errors
/// `tokenizer.json` is missing or damaged.
pub fn read(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    Tokenizer::from_file(&path).map_err(|e| anyhow::anyhow!("cannot read {}: {e}", path.display()))
}

/// `tokenizer.json`.
pub fn tokenizer_json() -> Value {
    let bytes = (0..BYTES).map(|byte| format!("<0x{byte:02X}>"));
    let numbers = (0..NUMBERS).map(|number| number.to_string());
    let plain = SPECIAL.iter().map(|s| (*s).to_owned());
    let all = plain.chain(bytes).chain(numbers).chain(PIECES.iter().map(|s| (*s).to_owned()));
    let vocab: Map<String, Value> = all.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let bos = json!({"SpecialToken": {"id": SPECIAL[BOS as usize], "type_id": 0}});
    let (first, second) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 0}}));
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"Numbers: \[|\]\nTarget: |, |[0-9]+|[-+*/()]"},
            "behavior": "Isolated",
            "invert": false,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, first],
            "pair": [bos, first, second],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": true,
            "ignore_merges": true,
            "vocab": vocab,
            "merges": [],
        },
    })
}

/// `tokenizer_config.json`, with a chat template that shows the model the last user message.
pub fn config_json() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "add_bos_token": true,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 512,
        "chat_template": "{{ bos_token }}{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }}",
    })
}

/// The tokenizer itself.
///
/// # Errors
/// The `tokenizers` crate refuses the file.
pub fn build() -> Result<Tokenizer> {
    let bytes = serde_json::to_vec(&tokenizer_json())?;
    Tokenizer::from_bytes(bytes).map_err(|e| anyhow::anyhow!("the tokenizer cannot be built: {e}"))
}
