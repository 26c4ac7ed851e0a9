//! A trained model as a folder in Hugging Face's layout.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use serde_json::{Value, json};

use super::checkpoint::{read_tensors, write_tensors};
use super::lora::LoraSettings;
use super::network::{Network, Weights};
use super::settings::{Generation, ModelSettings};
use super::{merge, tokenizer};
use crate::model::checkpoint::shards;
use crate::model::{ModelConfig, ModelSource};

/// Name of the weights in a model folder.
const WEIGHTS: &str = "model.safetensors";
/// Name of the matrices in an adapter folder.
const ADAPTER: &str = "adapter_model.safetensors";
const NORM_EPS: f64 = 1e-5;

/// `config.json` of a network trained from scratch.
pub fn config_json(model: &ModelSettings) -> Value {
    json!({
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "block_type": "llama",
        "activation_type": "silu",
        "d_model": model.width,
        "n_layers": model.layers,
        "n_heads": model.heads,
        "n_kv_heads": model.heads,
        "mlp_hidden_size": model.mlp,
        "vocab_size": tokenizer::VOCABULARY,
        "embedding_size": tokenizer::VOCABULARY,
        "max_sequence_length": model.max_positions,
        "rope": true,
        "rope_theta": model.rope_theta,
        "rope_full_precision": true,
        "alibi": false,
        "layer_norm_type": "rms",
        "rms_norm_eps": NORM_EPS,
        "attention_layer_norm": false,
        "include_bias": false,
        "include_qkv_bias": false,
        "bias_for_layer_norm": false,
        "input_emb_norm": false,
        "scale_logits": false,
        "block_group_size": 1,
        "weight_tying": false,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mask_token_id": tokenizer::MASK,
        "eos_token_id": tokenizer::EOS,
        "bos_token_id": tokenizer::BOS,
        "pad_token_id": tokenizer::PAD,
        "torch_dtype": "bfloat16",
        "use_cache": false,
    })
}

/// The network of a `config.json`.
///
/// # Errors
/// It is not one that can be trained.
pub fn network(config: &Value) -> Result<Network> {
    Ok(Network::new(ModelConfig::from_json(&serde_json::to_vec(config)?)?))
}

/// Read a model folder: its `config.json`, and its weights as f32.
///
/// # Errors
/// A file is missing or damaged, or the weights do not fit the configuration.
pub fn read(folder: &Path) -> Result<(Value, Weights)> {
    let text = ModelSource::folder(folder).require("config.json")?;
    let config = serde_json::from_slice(&text).context("config.json is not JSON")?;
    let mut weights = Weights::new();
    for shard in shards(folder, "model")? {
        weights.extend(read_tensors(&shard, &Device::Cpu)?);
    }
    network(&config)?.check(&weights).with_context(|| format!("model {}", folder.display()))?;
    Ok((config, weights))
}

/// Write a model folder but for its card: weights in bf16, configuration, tokenizer, decoding defaults.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, config: &Value, weights: &Weights, generation: &Generation) -> Result<()> {
    let generation = json!({
        "bos_token_id": tokenizer::BOS,
        "eos_token_id": tokenizer::EOS,
        "pad_token_id": tokenizer::PAD,
        "max_new_tokens": generation.max_new_tokens,
        "diffusion": generation.diffusion,
    });
    write_tensors(&folder.join(WEIGHTS), &narrow(weights)?, None)?;
    write_json(&folder.join("config.json"), config)?;
    write_json(&folder.join("tokenizer.json"), &tokenizer::tokenizer_json())?;
    write_json(&folder.join("tokenizer_config.json"), &tokenizer::config_json())?;
    write_json(&folder.join("generation_config.json"), &generation)
}

/// Write a model folder but for its card, trained on from the model in `source`: weights in bf16, everything else as it
/// was, but for the decoding defaults.
///
/// # Errors
/// A file cannot be read or written.
pub fn write_tuned(
    folder: &Path,
    source: &Path,
    config: &Value,
    weights: &Weights,
    generation: &Generation,
) -> Result<()> {
    write_tensors(&folder.join(WEIGHTS), &narrow(weights)?, None)?;
    merge::copy_companions(source, folder)?;
    let path = folder.join("generation_config.json");
    let mut defaults = match std::fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?
        }
        Err(_) => serde_json::Map::new(),
    };
    defaults.insert("max_new_tokens".to_owned(), json!(generation.max_new_tokens));
    defaults.insert("diffusion".to_owned(), json!(generation.diffusion));
    write_json(&path, &Value::Object(defaults))?;
    write_json(&folder.join("config.json"), config)
}

/// Write an adapter folder in PEFT's layout but for its card: matrices in bf16, `adapter_config.json`, and the decoding
/// defaults that go with it. `base` names the model it was trained on.
///
/// # Errors
/// A file cannot be written.
pub fn write_adapter(
    folder: &Path,
    base: &str,
    adapter: &Weights,
    lora: &LoraSettings,
    generation: &Generation,
) -> Result<()> {
    let generation = json!({"max_new_tokens": generation.max_new_tokens, "diffusion": generation.diffusion});
    write_tensors(&folder.join(ADAPTER), &narrow(adapter)?, None)?;
    write_json(&folder.join("adapter_config.json"), &lora.config_json(base))?;
    write_json(&folder.join("generation_config.json"), &generation)
}

fn narrow(weights: &Weights) -> Result<Weights> {
    weights.iter().map(|(name, t)| Ok((name.clone(), t.to_dtype(DType::BF16)?))).collect()
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    write_text(path, &text)
}

/// Write a text file, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    super::files::replace(path, |file| Ok(file.write_all(text.as_bytes())?))
}
