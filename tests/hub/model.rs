//! The files of a model folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;

/// A tiny network with random weights, and one token per printable ASCII character.
pub fn tiny() -> BTreeMap<String, Vec<u8>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llada-tiny");
    let mut vocab =
        serde_json::Map::from_iter([("<pad>".to_owned(), json!(0)), ("<eos>".to_owned(), json!(1))]);
    for letter in ' '..='~' {
        vocab.insert(letter.to_string(), json!(vocab.len()));
    }
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    let mut files = BTreeMap::from([("tokenizer.json".to_owned(), tokenizer.to_string().into_bytes())]);
    for file in ["config.json", "model.safetensors"] {
        files.insert(file.to_owned(), fs::read(fixture.join(file)).expect("a fixture"));
    }
    files
}
