//! The tokenizer of a folder without `tokenizer.json`, such as Dream's: `vocab.json`, `merges.txt`, and the added tokens of
//! `tokenizer_config.json` or `added_tokens.json`.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::byte_pairs::{BytePairs, Splitting};
use crate::model::{ModelError, ModelSource};

const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const CONFIG: &str = "tokenizer_config.json";
const ADDED: &str = "added_tokens.json";

fn unusable(file: &str, reason: impl std::fmt::Display) -> ModelError {
    ModelError::File { file: file.to_owned(), reason: reason.to_string() }
}

/// A token that texts are searched for as a whole.
#[derive(Debug, serde::Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// The content of a `tokenizer.json`, if the model has the other files.
///
/// # Errors
/// One of them cannot be read, or is of a class of tokenizers that is not supported.
pub(super) fn tokenizer_json(source: &ModelSource) -> Result<Option<Vec<u8>>, ModelError> {
    let (Some(vocabulary), Some(merges)) = (source.read(VOCABULARY)?, source.read(MERGES)?) else {
        return Ok(None);
    };
    let parse = |file: &str| match source.read(file)? {
        Some(text) => serde_json::from_slice::<Json>(&text).map_err(|e| unusable(file, e)),
        None => Ok(Json::Null),
    };
    let config = parse(CONFIG)?;
    let splitting = match config["tokenizer_class"].as_str() {
        Some("DreamTokenizer" | "Qwen2Tokenizer" | "Qwen2TokenizerFast") => Splitting::of("qwen2"),
        Some("GPT2Tokenizer" | "GPT2TokenizerFast") => Splitting::of("gpt-2"),
        _ => None,
    };
    let splitting = splitting.ok_or_else(|| {
        let class = &config["tokenizer_class"];
        unusable(CONFIG, format!("tokenizer_class {class} is not supported without a tokenizer.json"))
    })?;
    let words: BTreeMap<String, u32> =
        serde_json::from_slice(&vocabulary).map_err(|e| unusable(VOCABULARY, e))?;
    let merges = std::str::from_utf8(&merges).map_err(|e| unusable(MERGES, e))?;
    let added = match config.get("added_tokens_decoder") {
        Some(decoder) => serde_json::from_value(decoder.clone()).map_err(|e| unusable(CONFIG, e))?,
        None => plain(parse(ADDED)?)?,
    };
    // The special tokens are entries of the vocabulary, too, so that they keep their ids whatever lies between these.
    let special = added.iter().map(|(id, token)| (token.content.as_str(), *id));
    let vocab = words.iter().map(|(word, id)| (word.as_str(), *id)).chain(special).collect();
    let entry = |(id, token): (&u32, &Added)| {
        json!({"id": id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
               "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special})
    };
    let pairs = BytePairs {
        splitting,
        vocab,
        // The first line may be a comment about the format.
        merges: merges
            .lines()
            .filter(|line| !line.starts_with("#version"))
            .filter_map(|line| line.split_once(' '))
            .collect(),
        added: added.iter().map(entry).collect(),
        beginning: None,
    };
    Ok(Some(pairs.json()))
}

/// `added_tokens.json`: ids by text, and nothing else.
fn plain(ids: Json) -> Result<BTreeMap<u32, Added>, ModelError> {
    let ids: Option<BTreeMap<String, u32>> = serde_json::from_value(ids).map_err(|e| unusable(ADDED, e))?;
    let token = |(content, id)| {
        let added = Added {
            content,
            lstrip: false,
            rstrip: false,
            single_word: false,
            normalized: false,
            special: true,
        };
        (id, added)
    };
    Ok(ids.into_iter().flatten().map(token).collect())
}
