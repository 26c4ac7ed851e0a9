//! LoRA adapters in PEFT's folder layout: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::checkpoint::Checkpoint;
use super::{ModelError, ModelSource};

/// An adapter's matrices by module path (`model.transformer.blocks.0.q_proj`), as its files hold them.
pub struct Adapter {
    checkpoint: Checkpoint,
    /// Paths of the modules that nobody took yet.
    modules: BTreeSet<String>,
    config: AdapterJson,
}

/// What an adapter adds to a linear module: x → scaling * B (A x).
pub struct Change {
    /// A, `[r, in]`, f32.
    pub down: Tensor,
    /// B, `[out, r]`, f32.
    pub up: Tensor,
    /// lora_alpha / r.
    pub scaling: f64,
}

#[derive(Debug, Deserialize)]
struct AdapterJson {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    rank_pattern: Option<BTreeMap<String, usize>>,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The file that makes a folder an adapter's.
pub const CONFIG: &str = "adapter_config.json";
/// PEFT puts this before the module path of every tensor.
const PREFIX: &str = "base_model.model.";

impl Adapter {
    /// Open an adapter: its settings are read, and the headers of its files.
    ///
    /// # Errors
    /// A file is missing or unreadable, an option is not supported, or a matrix has no partner.
    pub fn open(source: &ModelSource) -> Result<Self, ModelError> {
        let file = || format!("{CONFIG} of {}", source.place());
        let file_error = |reason: String| ModelError::File { file: file(), reason };
        let text = source.require(CONFIG)?;
        let config: AdapterJson = serde_json::from_slice(&text).map_err(|e| file_error(e.to_string()))?;
        config.check().map_err(file_error)?;
        let checkpoint = Checkpoint::open(source, "adapter_model")?;
        let mut modules = BTreeSet::new();
        for name in checkpoint.names() {
            let module = name.strip_prefix(PREFIX).and_then(|n| n.strip_suffix(".lora_A.weight"));
            let Some(module) = module else {
                if name.starts_with(PREFIX) && name.ends_with(".lora_B.weight") {
                    continue;
                }
                return Err(checkpoint.fault(name, "not a LoRA tensor"));
            };
            modules.insert(module.to_owned());
        }
        for name in checkpoint.names() {
            let module = name.strip_prefix(PREFIX).and_then(|n| n.strip_suffix(".lora_B.weight"));
            if module.is_some_and(|module| !modules.contains(module)) {
                return Err(checkpoint.fault(name, "has no lora_A beside it"));
            }
        }
        Ok(Self { checkpoint, modules, config })
    }

    /// Its tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Paths of the modules that it changes.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(String::as_str)
    }

    /// Rank of its matrices, where nothing else is said of a module.
    pub fn rank(&self) -> usize {
        self.config.r
    }

    /// lora_alpha, where nothing else is said of a module.
    pub fn alpha(&self) -> f64 {
        self.config.lora_alpha
    }

    /// The model that it was trained for, as it says.
    pub fn base_model(&self) -> Option<&str> {
        self.config.rest.get("base_model_name_or_path")?.as_str().filter(|name| !name.is_empty())
    }

    /// What the adapter adds to a module with a weight of this shape (`[out, in]`), if it does. Each can be taken once.
    ///
    /// # Errors
    /// The matrices do not fit the weight.
    pub fn take(
        &mut self,
        module: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Option<Change>, ModelError> {
        let [out, width] = shape else { return Ok(None) };
        if !self.modules.remove(module) {
            return Ok(None);
        }
        let name = |part: &str| format!("{PREFIX}{module}.{part}.weight");
        let unclear = |reason: String| self.checkpoint.fault(&name("lora_A"), reason);
        let (rank, scaling) = self.config.rank_and_scaling(module).map_err(unclear)?;
        let load = |name: &str, shape: [usize; 2]| {
            let stored = self.checkpoint.shaped(name, &shape)?;
            stored.to_tensor(device).map_err(|e| self.checkpoint.fault(name, e))
        };
        let (down, up) = (load(&name("lora_A"), [rank, *width])?, load(&name("lora_B"), [*out, rank])?);
        Ok(Some(Change { down, up, scaling }))
    }

    /// To be called when every module took its change.
    ///
    /// # Errors
    /// Names a module that the model does not have.
    pub fn finish(self) -> Result<(), ModelError> {
        match self.modules.first() {
            None => Ok(()),
            Some(module) => {
                let name = format!("{PREFIX}{module}.lora_A.weight");
                Err(self.checkpoint.fault(&name, "the model does not have this module"))
            }
        }
    }
}

impl Change {
    /// The same as one matrix, `[out, in]`: what merging adds to the weight of `module`.
    ///
    /// # Errors
    /// The device fails.
    pub fn matrix(&self, module: &str) -> Result<Tensor, ModelError> {
        let Self { down, up, scaling } = self;
        up.matmul(down).and_then(|ba| ba * *scaling).map_err(|e| ModelError::tensor(module, e))
    }
}

impl AdapterJson {
    /// Options that change what the matrices mean must be off.
    fn check(&self) -> Result<(), String> {
        let patterns = self.rank_pattern.iter().flat_map(BTreeMap::keys);
        let patterns = patterns.chain(self.alpha_pattern.iter().flat_map(BTreeMap::keys));
        // PEFT reads them as regular expressions; what is a path means the same either way.
        let is_path = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
        if let Some(key) = patterns.into_iter().find(|key| !is_path(key)) {
            return Err(format!(
                "rank_pattern and alpha_pattern: {key:?} is no module path, which is not supported"
            ));
        }
        let ranks = self.rank_pattern.iter().flat_map(BTreeMap::values);
        if ranks.chain([&self.r]).any(|rank| *rank == 0) {
            return Err("r must be at least 1".to_owned());
        }
        if let Some(kind) = self.rest.get("peft_type").filter(|kind| *kind != "LORA") {
            return Err(format!("peft_type = {kind} is not supported"));
        }
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::String(text) => text == "none",
            _ => false,
        };
        let keys = [
            "use_dora",
            "use_rslora",
            "use_qalora",
            "modules_to_save",
            "fan_in_fan_out",
            "bias",
            "lora_bias",
            "layer_replication",
            "target_parameters",
            "trainable_token_indices",
            "alora_invocation_tokens",
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

    /// r, and lora_alpha / r, of a module.
    fn rank_and_scaling(&self, module: &str) -> Result<(usize, f64), String> {
        let rank = of_module(self.rank_pattern.as_ref(), module, "rank_pattern")?.unwrap_or(self.r);
        let alpha = of_module(self.alpha_pattern.as_ref(), module, "alpha_pattern")?;
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        Ok((rank, alpha.unwrap_or(self.lora_alpha) / rank as f64))
    }
}

/// What a table of path endings says of a module. PEFT takes the first entry that matches, in an order that a parsed object
/// no longer has; so there must be only one.
fn of_module<T: Copy>(
    table: Option<&BTreeMap<String, T>>,
    module: &str,
    name: &str,
) -> Result<Option<T>, String> {
    let ends =
        |key: &str| module.strip_suffix(key).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    let mut found = table.into_iter().flatten().filter(|(key, _)| ends(key));
    match (found.next(), found.next()) {
        (Some((one, _)), Some((other, _))) => {
            Err(format!("{one:?} and {other:?} of {name} both name this module"))
        }
        (first, _) => Ok(first.map(|(_, value)| *value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> AdapterJson {
        serde_json::from_str(text).expect("a config")
    }

    #[test]
    fn a_module_has_the_rank_and_scaling_that_its_path_s_ending_is_given() {
        let config = config(
            r#"{"r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 4, "blocks.1.v_proj": 2},
                "alpha_pattern": {"q_proj": 2}, "peft_type": "LORA", "bias": "none", "use_dora": false}"#,
        );
        config.check().expect("nothing that changes the meaning");
        for (module, expected) in [
            ("model.transformer.blocks.0.q_proj", (4, 0.5)),
            ("model.transformer.blocks.1.v_proj", (2, 8.0)),
            ("model.transformer.blocks.11.v_proj", (8, 2.0)),
            ("model.transformer.blocks.0.xq_proj", (8, 2.0)),
        ] {
            assert_eq!(config.rank_and_scaling(module), Ok(expected), "{module}");
        }
    }

    #[test]
    fn what_changes_the_meaning_of_the_matrices_is_refused() {
        for (text, reason) in [
            (r#"{"r": 0, "lora_alpha": 1}"#, "r must be at least 1"),
            (r#"{"r": 1, "lora_alpha": 1, "rank_pattern": {"q": 0}}"#, "r must be at least 1"),
            (r#"{"r": 1, "lora_alpha": 1, "rank_pattern": {"^q.*": 2}}"#, "no module path"),
            (r#"{"r": 1, "lora_alpha": 1, "peft_type": "LOHA"}"#, "peft_type = \"LOHA\""),
            (r#"{"r": 1, "lora_alpha": 1, "use_rslora": true}"#, "use_rslora = true"),
            (r#"{"r": 1, "lora_alpha": 1, "bias": "lora_only"}"#, "bias = \"lora_only\""),
        ] {
            let error = config(text).check().expect_err(text);
            assert!(error.contains(reason), "{error}");
        }
        let both = r#"{"r": 1, "lora_alpha": 1, "alpha_pattern": {"q": 2, "a.q": 3}}"#;
        let error = config(both).rank_and_scaling("x.a.q").expect_err("two entries");
        assert!(error.contains("both name this module"), "{error}");
    }
}
