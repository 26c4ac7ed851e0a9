//! The tokenizer of a GGUF file: what its `tokenizer.json` would say. Byte-level BPE (`gpt2` in llama.cpp's words) with the
//! splitting that `tokenizer.ggml.pre` names.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use crate::model::gguf::{Header, Value};

/// GPT-2's splitting into words, with what is left of spaces as a word.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's: three digits at most.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's, which Dream has: one digit.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Bailing's, whose vocabulary LLaDA shares.
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// What llama.cpp does where a file names nothing: one after the other.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];

/// How texts are prepared.
struct Splitting {
    patterns: &'static [&'static str],
    /// Whether composed and decomposed characters are the same.
    composed: bool,
    /// Whether a word that is a token is that token, whatever the merges say.
    whole_words: bool,
}

impl Splitting {
    fn of(name: &str) -> Option<Self> {
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
    let mut ids = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = ids.insert(token.as_str(), id) {
            return Err(format!("tokens {other} and {id} are both {token:?}"));
        }
    }
    let merges: Vec<[&str; 2]> = texts("tokenizer.ggml.merges")?
        .iter()
        .filter_map(|merge| merge.split_once(' '))
        // A merge of or to what is no token can never be used, and the library refuses it.
        .filter(|(left, right)| {
            let whole = format!("{left}{right}");
            [left, right, whole.as_str()].iter().all(|part| ids.contains_key(part))
        })
        .map(|(left, right)| [left, right])
        .collect();
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let steps: Vec<Json> = splitting.patterns.iter().map(split).chain([bytes.clone()]).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(header, tokens),
        "normalizer": splitting.composed.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": beginning(header, tokens),
        "decoder": bytes,
        "model": {"type": "BPE", "vocab": ids, "merges": merges, "ignore_merges": splitting.whole_words},
    });
    Ok(json.to_string().into_bytes())
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
