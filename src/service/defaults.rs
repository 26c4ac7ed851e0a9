//! What a model's makers recommend: `generation_config.json`.

use serde::Deserialize;

use crate::decode::DecodeOptions;
use crate::model::{ModelError, ModelSource};

/// A model's own defaults for generation; everything it is silent about is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// End-of-text tokens, if it names any; they replace those of `config.json`.
    pub eos_ids: Option<Vec<u32>>,
    /// Room for an answer, in tokens, when a client does not say.
    pub max_new_tokens: Option<usize>,
    /// Noise scale of the guesses when a client does not say; `None` if `do_sample` is false.
    pub temperature: Option<f64>,
    /// Candidates of draws when a client does not say, as in a request; `None` if `do_sample` is false.
    pub top_p: Option<f64>,
    /// The same.
    pub top_k: Option<i64>,
    /// The same.
    pub min_p: Option<f64>,
    /// How to decode when neither client nor settings say.
    pub decode: DecodeOptions,
}

#[derive(Debug, Deserialize)]
struct GenerationJson {
    eos_token_id: Option<Ids>,
    max_new_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    do_sample: Option<bool>,
    diffusion: Option<DecodeOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a token id or an array of token ids")]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl GenerationDefaults {
    /// Read `generation_config.json`; a model or an adapter without one recommends nothing.
    ///
    /// # Errors
    /// The file exists and is unusable; the field is named.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        match source.read("generation_config.json")? {
            Some(json) => Self::from_json(&json),
            None => Ok(Self::default()),
        }
    }

    /// What an adapter says goes before what its model says.
    #[must_use]
    pub fn or(self, of_model: &Self) -> Self {
        Self {
            eos_ids: self.eos_ids.or_else(|| of_model.eos_ids.clone()),
            max_new_tokens: self.max_new_tokens.or(of_model.max_new_tokens),
            temperature: self.temperature.or(of_model.temperature),
            top_p: self.top_p.or(of_model.top_p),
            top_k: self.top_k.or(of_model.top_k),
            min_p: self.min_p.or(of_model.min_p),
            decode: self.decode.or(of_model.decode),
        }
    }

    /// Parse the content of a `generation_config.json`.
    ///
    /// # Errors
    /// A field is of the wrong type or out of range; it is named.
    pub fn from_json(json: &[u8]) -> Result<Self, ModelError> {
        let unusable =
            |reason: String| ModelError::File { file: "generation_config.json".to_owned(), reason };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let parsed: GenerationJson =
            serde_path_to_error::deserialize(&mut deserializer).map_err(|e| unusable(e.to_string()))?;
        let decode = parsed.diffusion.unwrap_or_default();
        decode.check().map_err(|e| unusable(format!("diffusion.{}: {e}", e.field)))?;
        if parsed.max_new_tokens == Some(0) {
            return Err(unusable("max_new_tokens: must be at least 1".to_owned()));
        }
        let samples = parsed.do_sample != Some(false);
        let in_range = |name: &str, value: Option<f64>, most: f64| match value.filter(|_| samples) {
            Some(value) if !(0.0..=most).contains(&value) => {
                Err(unusable(format!("{name}: must be between 0 and {most}")))
            }
            value => Ok(value),
        };
        let top_k = parsed.top_k.filter(|_| samples);
        if top_k.is_some_and(|count| count < -1) {
            return Err(unusable("top_k: must be at least -1".to_owned()));
        }
        let eos_ids = parsed.eos_token_id.map(|ids| match ids {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        });
        Ok(Self {
            eos_ids,
            max_new_tokens: parsed.max_new_tokens,
            temperature: in_range("temperature", parsed.temperature, 2.0)?,
            top_p: in_range("top_p", parsed.top_p, 1.0)?,
            top_k,
            min_p: in_range("min_p", parsed.min_p, 1.0)?,
            decode,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read() {
        let json = br#"{"eos_token_id": [2, 5], "max_new_tokens": 32, "temperature": 0.5, "transformers_version": "4",
                        "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1, "diffusion": {"steps": 8, "block_length": 4}}"#;
        let found = GenerationDefaults::from_json(json).expect("valid");
        assert_eq!(found.eos_ids, Some(vec![2, 5]));
        assert_eq!((found.max_new_tokens, found.temperature), (Some(32), Some(0.5)));
        assert_eq!((found.top_p, found.top_k, found.min_p), (Some(0.9), Some(50), Some(0.1)));
        assert_eq!((found.decode.steps, found.decode.block_length), (Some(8), Some(4)));
    }

    #[test]
    fn what_a_model_says_of_sampling_counts_only_if_it_samples() {
        let json = br#"{"eos_token_id": 2, "temperature": 1.0, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "do_sample": false}"#;
        let found = GenerationDefaults::from_json(json).expect("valid");
        let silent = GenerationDefaults { eos_ids: Some(vec![2]), ..GenerationDefaults::default() };
        assert_eq!(found, silent);
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for (json, name) in [
            (r#"{"eos_token_id": "two"}"#, "eos_token_id"),
            (r#"{"max_new_tokens": 0}"#, "max_new_tokens"),
            (r#"{"temperature": 3}"#, "temperature"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"top_k": -2}"#, "top_k"),
            (r#"{"min_p": -0.5}"#, "min_p"),
            (r#"{"diffusion": {"alpha": 1}}"#, "diffusion.alpha"),
            (r#"{"diffusion": {"blocks": 1}}"#, "blocks"),
        ] {
            let message = GenerationDefaults::from_json(json.as_bytes()).expect_err("unusable").to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
