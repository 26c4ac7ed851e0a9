//! Messages to text, text to token ids, and back.

mod byte_level;
mod byte_pairs;
pub mod chat_template;
pub mod detokenizer;
mod gguf;
#[cfg(test)]
pub(crate) mod samples;
mod spelling;
mod tokenizer_config;
mod vocabulary_files;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

pub use detokenizer::Detokenizer;
pub use spelling::Spelled;
pub use tokenizer_config::TokenizerConfig;

use crate::model::{ModelError, ModelSource};

/// A model's tokenizer: `tokenizer.json`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Tokens that stand for one byte each (`<0x00>`…), if the decoder reads them so.
    bytes: HashSet<u32>,
    /// Tokens that decoding leaves out.
    special: HashSet<u32>,
    /// Tokens beside the model's own vocabulary: they are spelled as they are.
    added: HashSet<u32>,
    /// Whether names are spelled in GPT-2's alphabet.
    byte_level: bool,
    longest: usize,
    /// What tokens stand for, by id, as far as somebody asked: finding out takes a decoder some microseconds, and reports of
    /// log-probabilities and of progress ask for thousands, mostly the same.
    spelled: Box<[OnceLock<Box<[u8]>>]>,
}

/// Text that the tokenizer cannot turn into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the text cannot be tokenized: {0}")]
pub struct TokenizeError(String);

impl Tokenizer {
    /// Load `tokenizer.json`; without one the tokenizer of a GGUF file, or of `vocab.json` and `merges.txt`. Its truncation and padding, meant for training, are switched off.
    ///
    /// # Errors
    /// The file is missing or unusable.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        let own = source.read("tokenizer.json")?;
        if let (Some(_), ModelSource::Gguf(_)) = (&own, source) {
            tracing::info!("the tokenizer is that of the tokenizer.json beside the model's file");
        }
        if let Some(json) = own {
            return Self::from_json(&json);
        }
        if let ModelSource::Gguf(file) = source {
            let failed = |reason: String| ModelError::File { file: source.place(), reason };
            let json = gguf::tokenizer_json(file.header()).map_err(failed)?;
            return Self::from_json(&json).map_err(|e| failed(format!("its tokenizer cannot be used: {e}")));
        }
        match vocabulary_files::tokenizer_json(source)? {
            Some(json) => Self::from_json(&json),
            None => Err(ModelError::Missing { file: "tokenizer.json".to_owned(), place: source.place() }),
        }
    }

    /// Parse the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// It is not a tokenizer.
    pub fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let panicked = || Err("the tokenizers library panicked on it".into());
        let parsed = catch_unwind(|| Self::parse(json)).unwrap_or_else(|_| panicked());
        parsed.map_err(|e| ModelError::File { file: "tokenizer.json".into(), reason: e.to_string() })
    }

    fn parse(json: &[u8]) -> tokenizers::Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        let reads_bytes = inner
            .token_to_id("<0x61>")
            .is_some_and(|id| inner.decode(&[id], true).is_ok_and(|text| text == "a"));
        let byte_level = inner
            .token_to_id("\u{120}")
            .is_some_and(|id| inner.decode(&[id], true).is_ok_and(|text| text == " "));
        let bytes = match reads_bytes {
            true => (0..=255_u8).filter_map(|byte| inner.token_to_id(&format!("<0x{byte:02X}>"))).collect(),
            false => HashSet::new(),
        };
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let added = added.keys().copied().collect();
        let longest = inner.get_vocab(true).keys().map(String::len).max().unwrap_or(1);
        // By the number of tokens, not by the largest id: a file may name any.
        let spelled = (0..inner.get_vocab_size(true)).map(|_| OnceLock::new()).collect();
        Ok(Self { inner, bytes, special, added, byte_level, longest, spelled })
    }

    /// Token ids of a prompt, with what the tokenizer adds to one (a beginning-of-text token, say).
    ///
    /// # Errors
    /// The tokenizer does not know a character and has no token for the unknown.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        self.ids(text, true)
    }

    /// Token ids of a text that holds its special tokens already, as a chat template's does.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        self.ids(text, false)
    }

    fn ids(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizeError> {
        let encoded = guarded(|| self.inner.encode_fast(text, add_special));
        let encoding = encoded.map_err(|e| TokenizeError(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Bytes of the longest token's name; no token stands for more text, unless the tokenizer leaves some out.
    pub fn longest_token(&self) -> usize {
        self.longest
    }

    /// The text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.text(ids, true)
    }

    /// The text of token ids, special tokens included.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        self.text(ids, false)
    }

    fn text(&self, ids: &[u32], skip_special: bool) -> String {
        guarded(|| self.inner.decode(ids, skip_special)).unwrap_or_else(|error| {
            tracing::error!(%error, "a decoder failed");
            String::new()
        })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// How the vocabulary spells a token.
    pub fn name(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether decoding leaves the token out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Whether the token stands for one byte, which is decoded together with those next to it.
    pub fn is_byte(&self, id: u32) -> bool {
        self.bytes.contains(&id)
    }

    /// The last token of a text behind which another one may be decoded: one that has a text of its own.
    pub fn last_word(&self, ids: &[u32]) -> Option<u32> {
        let reads = |id: &u32| {
            let text = self.decode(&[*id]);
            !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER)
        };
        ids.iter().rev().copied().find(|id| !self.is_special(*id) && !self.is_byte(*id) && reads(id))
    }

    /// How many of the last tokens may read differently once more tokens follow: a run of byte tokens is decoded as a
    /// whole.
    fn open_run(&self, ids: &[u32]) -> usize {
        let silent = |id: &u32| self.special.contains(id) || self.inner.id_to_token(*id).is_none();
        let closed = ids.iter().rposition(|id| !self.bytes.contains(id) && !silent(id));
        let open = closed.map_or(0, |last| last + 1);
        let holds_bytes = ids[open..].iter().any(|id| self.bytes.contains(id));
        if holds_bytes { ids.len() - open } else { 0 }
    }
}

/// The tokenizers library panics on some `tokenizer.json` that it reads without complaint (a merge of which a part is not
/// in the vocabulary, say). Texts then fail, not the server.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    // What is borrowed is only read; the library's caches are behind locks of which a poisoned one is not used.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the tokenizer panicked".into()))
}
