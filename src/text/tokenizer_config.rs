//! What a model says of its tokenizer beside the tokenizer itself: `tokenizer_config.json`.

use serde_json::{Map, Value, json};

use super::Tokenizer;
use super::chat_template::ChatTemplate;
use crate::model::{ModelError, ModelSource};

const FILE: &str = "tokenizer_config.json";

/// The class of tokenizers that are read from `tokenizer.json`, where the file names none.
const CLASS: &str = "PreTrainedTokenizerFast";

/// The content of a model's `tokenizer_config.json`, in the form that clients without the file can use.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizerConfig(Map<String, Value>);

impl TokenizerConfig {
    /// Read the file of a model, which need not have one.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON object.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        let Some(text) = source.read(FILE)? else { return Ok(Self::default()) };
        let unusable =
            |error: serde_json::Error| ModelError::File { file: FILE.to_owned(), reason: error.to_string() };
        let mut fields: Map<String, Value> = serde_json::from_slice(&text).map_err(unusable)?;
        // A token may be an object with its text as `content`.
        for (_, value) in fields.iter_mut().filter(|(name, _)| name.ends_with("_token")) {
            if let Some(content) = value.get_mut("content") {
                *value = content.take();
            }
        }
        Ok(Self(fields))
    }

    /// Complete it with what is known from elsewhere: the chat template in force, the names of the end-of-text and mask
    /// tokens, and how many tokens of prompt and answer the server takes.
    #[must_use]
    pub fn completed(
        mut self,
        template: Option<&ChatTemplate>,
        tokenizer: &Tokenizer,
        (eos_id, mask_id): (Option<u32>, u32),
        max_tokens: usize,
    ) -> Self {
        let fields = &mut self.0;
        fields.insert("chat_template".to_owned(), json!(template.map(ChatTemplate::source)));
        fields.insert("model_max_length".to_owned(), json!(max_tokens));
        let names = [("eos_token", eos_id), ("mask_token", Some(mask_id))];
        for (field, id) in names {
            let known = fields.get(field).is_some_and(Value::is_string);
            if let Some(name) = id.filter(|_| !known).and_then(|id| tokenizer.name(id)) {
                fields.insert(field.to_owned(), json!(name));
            }
        }
        if !fields.get("tokenizer_class").is_some_and(Value::is_string) {
            fields.insert("tokenizer_class".to_owned(), json!(CLASS));
        }
        self
    }

    /// The fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}
