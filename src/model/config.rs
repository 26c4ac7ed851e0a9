//! `config.json` of a checkpoint, under one set of names for all model families.

use serde::Deserialize;

use super::{Family, ModelError, ModelSource};

/// Sizes and constants of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Architecture.
    pub family: Family,
    /// Rows of the embedding table and of the head.
    pub vocab: usize,
    /// Width of the residual stream, D.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads, H; D is a multiple.
    pub heads: usize,
    /// Key/value heads, G; H is a multiple.
    pub kv_heads: usize,
    /// Width of the SwiGLU part.
    pub mlp: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f64,
    /// The head is the embedding table.
    pub tied_head: bool,
    /// The mask token.
    pub mask_id: u32,
    /// End-of-text tokens; may be empty.
    pub eos_ids: Vec<u32>,
    /// Longest canvas the model was made for.
    pub max_positions: usize,
}

/// Longest canvas of a model, whatever its `config.json` says: the tables of rotary angles grow with it.
pub const MAX_POSITIONS: usize = 1 << 20;

impl ModelConfig {
    /// Width of one head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Width of all keys (or values) of a position in one layer.
    pub fn kv_width(&self) -> usize {
        self.head_width() * self.kv_heads
    }

    /// Whether the head's output at position j predicts position j + 1.
    pub fn shifted(&self) -> bool {
        self.family.shifted()
    }

    /// Whether q, k and v have biases.
    pub fn qkv_bias(&self) -> bool {
        self.family.qkv_bias()
    }

    /// The configuration of a model: `config.json`, or what a GGUF file says.
    ///
    /// # Errors
    /// As [`Self::from_json`]; or the file is missing.
    pub fn load(source: &ModelSource) -> Result<Self, ModelError> {
        match source {
            ModelSource::Gguf(file) => Ok(file.config().clone()),
            _ => Self::from_json(&source.require("config.json")?),
        }
    }

    /// Parse `config.json`.
    ///
    /// # Errors
    /// Names the field that is missing, of the wrong type, or set to something this network does not compute.
    pub fn from_json(text: &[u8]) -> Result<Self, ModelError> {
        let value: serde_json::Value =
            serde_json::from_slice(text).map_err(|e| ModelError::Config(format!("not JSON: {e}")))?;
        let key = value.get("model_type").and_then(|v| v.as_str()).unwrap_or_default().to_lowercase();
        let family = Family::keyed(&key).ok_or(ModelError::UnknownFamily(key))?;
        let config = match family {
            Family::Llada => parse::<LladaJson>(value)?.into_config(family)?,
            Family::Dream => parse::<DreamJson>(value)?.into_config(family)?,
        };
        config.check().map_err(ModelError::Config)?;
        Ok(config)
    }

    /// Whether a network of these sizes can be computed.
    pub(super) fn check(&self) -> Result<(), String> {
        let sizes =
            [self.vocab, self.width, self.layers, self.heads, self.kv_heads, self.mlp, self.max_positions];
        let whole = sizes.iter().all(|n| *n > 0)
            && self.width.is_multiple_of(self.heads)
            && self.heads.is_multiple_of(self.kv_heads)
            && self.head_width().is_multiple_of(2);
        if !whole {
            return Err("sizes are zero or do not divide (width, heads, kv heads)".to_owned());
        }
        if self.max_positions > MAX_POSITIONS {
            let (found, most) = (self.max_positions, MAX_POSITIONS);
            return Err(format!("{found} positions, at most {most} are supported"));
        }
        let constants = self.rope_theta > 0.0 && self.rope_theta.is_finite() && self.norm_eps >= 0.0;
        if !constants || !self.norm_eps.is_finite() {
            let message = "rope_theta must be a number above 0 and rms_norm_eps one that is not below 0";
            return Err(message.to_owned());
        }
        if self.vocab < 2 {
            return Err("a vocabulary needs a token beside the mask".to_owned());
        }
        if self.mask_id as usize >= self.vocab {
            let (mask, vocab) = (self.mask_id, self.vocab);
            return Err(format!("mask_token_id {mask} is outside the vocabulary of {vocab}"));
        }
        Ok(())
    }
}

fn parse<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, ModelError> {
    serde_path_to_error::deserialize(value).map_err(|e| ModelError::Config(e.to_string()))
}

fn refuse(key: &str, value: impl std::fmt::Debug) -> ModelError {
    ModelError::Config(format!("{key} = {value:?} is not supported"))
}

/// One id or several.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
enum Ids {
    #[default]
    None,
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::None => Vec::new(),
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[derive(Debug, Deserialize)]
struct LladaJson {
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: Option<usize>,
    mlp_hidden_size: usize,
    vocab_size: usize,
    embedding_size: Option<usize>,
    max_sequence_length: usize,
    rope_theta: f64,
    rms_norm_eps: f64,
    mask_token_id: u32,
    #[serde(default)]
    eos_token_id: Ids,
    #[serde(default)]
    weight_tying: bool,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl LladaJson {
    fn into_config(self, family: Family) -> Result<ModelConfig, ModelError> {
        use serde_json::json;
        let expected = [
            ("block_type", json!("llama")),
            ("layer_norm_type", json!("rms")),
            ("activation_type", json!("silu")),
            ("rope", json!(true)),
            ("alibi", json!(false)),
            ("attention_layer_norm", json!(false)),
            ("input_emb_norm", json!(false)),
            ("scale_logits", json!(false)),
            ("include_bias", json!(false)),
            ("include_qkv_bias", json!(false)),
            ("block_group_size", json!(1)),
        ];
        for (key, want) in expected {
            if let Some(found) = self.rest.get(key)
                && *found != want
            {
                return Err(refuse(key, found));
            }
        }
        Ok(ModelConfig {
            family,
            vocab: self.embedding_size.unwrap_or(self.vocab_size),
            width: self.d_model,
            layers: self.n_layers,
            heads: self.n_heads,
            kv_heads: self.n_kv_heads.unwrap_or(self.n_heads),
            mlp: self.mlp_hidden_size,
            rope_theta: self.rope_theta,
            norm_eps: self.rms_norm_eps,
            tied_head: self.weight_tying,
            mask_id: self.mask_token_id,
            eos_ids: self.eos_token_id.into_vec(),
            max_positions: self.max_sequence_length,
        })
    }
}

#[derive(Debug, Deserialize)]
struct DreamJson {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rope_theta: f64,
    rms_norm_eps: f64,
    mask_token_id: u32,
    #[serde(default)]
    eos_token_id: Ids,
    #[serde(default)]
    tie_word_embeddings: bool,
    hidden_act: Option<String>,
    rope_scaling: Option<serde_json::Value>,
    #[serde(default)]
    use_sliding_window: bool,
}

impl DreamJson {
    fn into_config(self, family: Family) -> Result<ModelConfig, ModelError> {
        if let Some(scaling) = self.rope_scaling {
            return Err(refuse("rope_scaling", scaling));
        }
        if self.use_sliding_window {
            return Err(refuse("use_sliding_window", true));
        }
        if let Some(act) = self.hidden_act.filter(|act| act != "silu") {
            return Err(refuse("hidden_act", act));
        }
        Ok(ModelConfig {
            family,
            vocab: self.vocab_size,
            width: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            mlp: self.intermediate_size,
            rope_theta: self.rope_theta,
            norm_eps: self.rms_norm_eps,
            tied_head: self.tie_word_embeddings,
            mask_id: self.mask_token_id,
            eos_ids: self.eos_token_id.into_vec(),
            max_positions: self.max_position_embeddings,
        })
    }
}
