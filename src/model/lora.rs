//! LoRA adapters in PEFT's folder layout: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::checkpoint::Checkpoint;
use super::loader::check_shape;
use super::{ModelError, ModelSource};

/// An adapter's matrices by module path (`model.transformer.blocks.0.q_proj`).
pub struct Adapter {
    /// Module path → (A `[r, in]`, B `[out, r]`).
    modules: BTreeMap<String, (Tensor, Tensor)>,
    rank: usize,
    scaling: f64,
}

#[derive(Debug, Deserialize)]
struct AdapterJson {
    r: usize,
    lora_alpha: f64,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// PEFT puts this before the module path of every tensor.
const PREFIX: &str = "base_model.model.";

impl Adapter {
    /// Read an adapter.
    ///
    /// # Errors
    /// A file is missing or unreadable, an option is not supported, or a matrix has no partner.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self, ModelError> {
        const CONFIG: &str = "adapter_config.json";
        let file = || format!("{CONFIG} of {}", source.place());
        let file_error = |reason: String| ModelError::File { file: file(), reason };
        let text = source.require(CONFIG)?;
        let config: AdapterJson = serde_json::from_slice(&text).map_err(|e| file_error(e.to_string()))?;
        config.check().map_err(file_error)?;
        let files = Checkpoint::open(source, "adapter_model")?;
        let mut modules = BTreeMap::new();
        let load = |name: &str| files.get(name)?.to_tensor(device).map_err(|e| ModelError::tensor(name, e));
        for name in files.names() {
            let module = name.strip_prefix(PREFIX).and_then(|n| n.strip_suffix(".lora_A.weight"));
            let Some(module) = module else {
                if name.starts_with(PREFIX) && name.ends_with(".lora_B.weight") {
                    continue;
                }
                return Err(ModelError::tensor(name, "not a LoRA tensor"));
            };
            let other = format!("{PREFIX}{module}.lora_B.weight");
            modules.insert(module.to_owned(), (load(name)?, load(&other)?));
        }
        if files.names().count() != 2 * modules.len() {
            let reason = "a lora_B matrix has no lora_A".to_owned();
            return Err(ModelError::File { file: source.place(), reason });
        }
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let scaling = config.lora_alpha / config.r as f64;
        Ok(Self { modules, rank: config.r, scaling })
    }

    /// The change (lora_alpha / r) B A of a module's weight `[out, in]`, if the adapter has one. Each can be taken once.
    ///
    /// # Errors
    /// The matrices do not fit the weight.
    pub fn take(&mut self, module: &str, shape: &[usize]) -> Result<Option<Tensor>, ModelError> {
        let Some((a, b)) = self.modules.remove(module) else { return Ok(None) };
        let [out, width] = shape else { return Ok(None) };
        check_shape(&format!("{PREFIX}{module}.lora_A.weight"), a.dims(), &[self.rank, *width])?;
        check_shape(&format!("{PREFIX}{module}.lora_B.weight"), b.dims(), &[*out, self.rank])?;
        let change =
            b.matmul(&a).and_then(|ba| ba * self.scaling).map_err(|e| ModelError::tensor(module, e))?;
        Ok(Some(change))
    }

    /// To be called when every module took its change.
    ///
    /// # Errors
    /// Names a module that the model does not have.
    pub fn finish(self) -> Result<(), ModelError> {
        match self.modules.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let reason = "the adapter changes this module, but the model does not have it".to_owned();
                Err(ModelError::Tensor { name, reason })
            }
        }
    }
}

impl AdapterJson {
    /// Options that change what the matrices mean must be off.
    fn check(&self) -> Result<(), String> {
        if self.r == 0 {
            return Err("r must be at least 1".to_owned());
        }
        let off = |value: &serde_json::Value| match value {
            serde_json::Value::Null | serde_json::Value::Bool(false) => true,
            serde_json::Value::Object(map) => map.is_empty(),
            serde_json::Value::Array(list) => list.is_empty(),
            serde_json::Value::String(text) => text == "none",
            _ => false,
        };
        let keys = [
            "use_dora",
            "use_rslora",
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
            "fan_in_fan_out",
            "bias",
        ];
        for key in keys {
            if let Some(value) = self.rest.get(key)
                && !off(value)
            {
                return Err(format!("{key} = {value} is not supported"));
            }
        }
        Ok(())
    }
}
