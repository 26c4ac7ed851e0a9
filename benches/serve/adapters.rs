//! LoRA folders with random numbers, to measure speed with.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use evotoken::model::ModelConfig;
use serde_json::json;

/// A usual rank.
const RANK: usize = 16;

/// Write so many adapters of queries and values below a folder. Returns flags that load them, and their names.
pub fn write(folder: &Path, config: &ModelConfig, count: usize) -> Result<(Vec<String>, Vec<String>)> {
    let (mut flags, mut names) = (Vec::new(), Vec::new());
    for number in 0..count {
        let name = format!("adapter{number}");
        let place = folder.join(&name);
        std::fs::create_dir(&place)?;
        let settings = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj", "v_proj"]});
        std::fs::write(place.join("adapter_config.json"), settings.to_string())?;
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for layer in 0..config.layers {
            for (module, out) in [("q_proj", config.width), ("v_proj", config.kv_width())] {
                let path = format!("base_model.model.model.transformer.blocks.{layer}.{module}");
                for (part, shape) in [("lora_A", (RANK, config.width)), ("lora_B", (out, RANK))] {
                    let values = Tensor::randn(0f32, 0.02, shape, &Device::Cpu)?;
                    tensors.insert(format!("{path}.{part}.weight"), values);
                }
            }
        }
        candle_core::safetensors::save(&tensors, place.join("adapter_model.safetensors"))?;
        flags.extend(["--adapter".to_owned(), format!("{name}={}", place.display())]);
        names.push(name);
    }
    Ok((flags, names))
}
