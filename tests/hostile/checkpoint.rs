//! The smallest model that answers, as files.

use std::path::Path;

use serde_json::{Map, Value, json};

pub const VOCAB: usize = 12;
const WIDTH: usize = 8;
const MLP: usize = 16;
const RANK: usize = 2;

/// A tensor as a safetensors file holds it.
#[derive(Debug, Clone)]
pub struct Stored {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub data: Vec<u8>,
}

pub fn config() -> Value {
    json!({
        "model_type": "llada", "block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": true,
        "alibi": false, "d_model": WIDTH, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "mlp_hidden_size": MLP,
        "vocab_size": VOCAB, "embedding_size": VOCAB, "max_sequence_length": 32, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5, "mask_token_id": 11, "eos_token_id": 1, "weight_tying": true})
}

pub fn dream_config() -> Value {
    json!({
        "model_type": "Dream", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": MLP, "vocab_size": VOCAB, "max_position_embeddings": 32,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "mask_token_id": 11, "eos_token_id": [1, 2], "hidden_act": "silu",
        "rope_scaling": null, "use_sliding_window": false, "tie_word_embeddings": true})
}

fn stored(name: &str, shape: &[usize]) -> Stored {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|i| ((i * 37 + name.len() * 11) % 17) as f32 * 0.1 - 0.8);
    Stored {
        name: name.to_owned(),
        dtype: "F32".to_owned(),
        shape: shape.iter().map(|n| *n as u64).collect(),
        data: values.flat_map(f32::to_le_bytes).collect(),
    }
}

pub fn weights() -> Vec<Stored> {
    let layer =
        |module: &str, shape: &[usize]| stored(&format!("model.transformer.blocks.0.{module}.weight"), shape);
    vec![
        stored("model.transformer.wte.weight", &[VOCAB, WIDTH]),
        layer("attn_norm", &[WIDTH]),
        layer("q_proj", &[WIDTH, WIDTH]),
        layer("k_proj", &[WIDTH / 2, WIDTH]),
        layer("v_proj", &[WIDTH / 2, WIDTH]),
        layer("attn_out", &[WIDTH, WIDTH]),
        layer("ff_norm", &[WIDTH]),
        layer("ff_proj", &[MLP, WIDTH]),
        layer("up_proj", &[MLP, WIDTH]),
        layer("ff_out", &[WIDTH, MLP]),
        stored("model.transformer.ln_f.weight", &[WIDTH]),
    ]
}

pub fn adapter_config() -> Value {
    json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none", "use_dora": false,
           "use_rslora": false, "fan_in_fan_out": false, "modules_to_save": null, "rank_pattern": {}, "alpha_pattern": {}})
}

pub fn adapter_weights() -> Vec<Stored> {
    let part = |module: &str, part: &str, shape: &[usize]| {
        stored(&format!("base_model.model.model.transformer.blocks.0.{module}.{part}.weight"), shape)
    };
    vec![
        part("q_proj", "lora_A", &[RANK, WIDTH]),
        part("q_proj", "lora_B", &[WIDTH, RANK]),
        part("ff_out", "lora_A", &[RANK, MLP]),
        part("ff_out", "lora_B", &[WIDTH, RANK]),
    ]
}

/// The header of a safetensors file with these tensors.
pub fn header(tensors: &[Stored]) -> Value {
    let mut end = 0;
    let mut entries = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    for Stored { name, dtype, shape, data } in tensors {
        let start = end;
        end += data.len();
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        entries.insert(name.clone(), entry);
    }
    Value::Object(entries)
}

/// A safetensors file: the header's length (or what is claimed of it), the header, the data.
pub fn file(header: &Value, claimed: Option<u64>, tensors: &[Stored]) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = claimed.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    tensors.iter().for_each(|tensor| bytes.extend(&tensor.data));
    bytes
}

/// Write a sound model.
pub fn write(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file");
    let tensors = weights();
    std::fs::write(folder.join("model.safetensors"), file(&header(&tensors), None, &tensors))
        .expect("a file");
}

/// Write a sound adapter of it.
pub fn write_adapter(folder: &Path) {
    std::fs::write(folder.join("adapter_config.json"), adapter_config().to_string()).expect("a file");
    let tensors = adapter_weights();
    std::fs::write(folder.join("adapter_model.safetensors"), file(&header(&tensors), None, &tensors))
        .expect("a file");
}
