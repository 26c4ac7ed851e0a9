//! The tokenizer of a GGUF file: what its `tokenizer.json` would say. Byte-level BPE (`gpt2` in llama.cpp's words) with the
//! splitting that `tokenizer.ggml.pre` names.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::byte_pairs::{BytePairs, Splitting};
use crate::model::gguf::{Header, Value};

/// ggml's kinds of tokens that texts are searched for as a whole, and those of them that decoding leaves out.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The content of a `tokenizer.json`.
///
/// # Errors
/// A key is missing, or names a tokenizer that is not supported.
pub(super) fn tokenizer_json(header: &Header) -> Result<Vec<u8>, String> {
    let text = |key: &str| match header.metadata.get(key) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let texts = |key: &str| match header.metadata.get(key) {
        Some(Value::Texts(list)) => Ok(list.as_slice()),
        _ => Err(format!("the key {key} is missing, or is no list of texts")),
    };
    match text("tokenizer.ggml.model") {
        Some("gpt2") => {}
        other => {
            let name = other.unwrap_or("none");
            return Err(format!("tokenizer.ggml.model is {name:?}, which is not supported (\"gpt2\" is)"));
        }
    }
    let name = text("tokenizer.ggml.pre").unwrap_or("default");
    let splitting = Splitting::of(name).ok_or_else(|| {
        format!("tokenizer.ggml.pre is {name:?}, which is not supported; put the model's tokenizer.json beside the file")
    })?;
    let tokens = texts("tokenizer.ggml.tokens")?;
    let mut vocab = BTreeMap::new();
    for (id, token) in (0..).zip(tokens) {
        if let Some(other) = vocab.insert(token.as_str(), id) {
            return Err(format!("tokens {other} and {id} are both {token:?}"));
        }
    }
    let merges = texts("tokenizer.ggml.merges")?.iter().filter_map(|merge| merge.split_once(' ')).collect();
    let (added, beginning) = (added_tokens(header, tokens), beginning(header, tokens));
    Ok(BytePairs { splitting, vocab, merges, added, beginning }.json())
}

fn added_tokens(header: &Header, tokens: &[String]) -> Vec<Json> {
    let Some(Value::Wholes(kinds)) = header.metadata.get("tokenizer.ggml.token_type") else {
        return Vec::new();
    };
    let all = tokens.iter().zip(kinds).enumerate();
    let added = all.filter(|(_, (token, kind))| [CONTROL, USER_DEFINED].contains(kind) && !token.is_empty());
    let entry = |(id, (token, kind)): (usize, (&String, &i64))| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": *kind == CONTROL})
    };
    added.map(entry).collect()
}

/// A beginning-of-text token in front of prompts, if the file asks for one.
fn beginning(header: &Header, tokens: &[String]) -> Option<Json> {
    let asked = header.metadata.get("tokenizer.ggml.add_bos_token") == Some(&Value::Flag(true));
    let Some(Value::Whole(id)) = header.metadata.get("tokenizer.ggml.bos_token_id").filter(|_| asked) else {
        return None;
    };
    let (id, text) = (u32::try_from(*id).ok()?, tokens.get(usize::try_from(*id).ok()?)?);
    let token = json!({"SpecialToken": {"id": text, "type_id": 0}});
    let (one, other) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 0}}));
    let tokens = json!({text: {"id": text, "ids": [id], "tokens": [text]}});
    Some(
        json!({"type": "TemplateProcessing", "single": [token, one], "pair": [token, one, other], "special_tokens": tokens}),
    )
}
