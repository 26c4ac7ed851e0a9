//! A LoRA adapter, from its folder.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::decode::Attention;
use crate::model::checkpoint::Checkpoint;
use crate::model::marker::Marker;
use crate::model::{ModelError, ModelSource};

/// The file that makes a folder an adapter's.
pub(super) const CONFIG: &str = "adapter_config.json";

/// An adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterReport {
    /// Rank of its matrices.
    pub rank: u64,
    /// lora_alpha.
    pub alpha: f64,
    /// Number of modules of each name that it changes.
    pub modules: BTreeMap<String, usize>,
    /// Layers that it changes.
    pub layers: usize,
    /// Numbers of all its matrices.
    pub parameters: usize,
    /// Bytes of its files.
    pub bytes: usize,
    /// The model that it was trained for, as it says.
    pub base_model: Option<String>,
    /// Which positions see which, if its `evotoken.json` says so.
    pub attention: Option<Attention>,
}

impl AdapterReport {
    /// Read the small files and the header of the weights.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub(super) fn of(source: &ModelSource) -> Result<Self, ModelError> {
        let config: Value =
            serde_json::from_slice(&source.require(CONFIG)?).map_err(|e| unusable(CONFIG, &e))?;
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let checkpoint = Checkpoint::open(source, "adapter_model")?;
        let (mut modules, mut layers) = (BTreeMap::new(), std::collections::BTreeSet::new());
        for path in checkpoint.names().filter_map(|name| name.strip_suffix(".lora_A.weight")) {
            let name = path.rsplit('.').next().unwrap_or(path);
            *modules.entry(name.to_owned()).or_default() += 1;
            layers.extend(path.split('.').find_map(|part| part.parse::<usize>().ok()));
        }
        Ok(Self {
            rank: config["r"].as_u64().ok_or_else(|| unusable(CONFIG, &"r is no whole number"))?,
            alpha: config["lora_alpha"]
                .as_f64()
                .ok_or_else(|| unusable(CONFIG, &"lora_alpha is no number"))?,
            modules,
            layers: layers.len(),
            parameters: checkpoint.weights(),
            bytes: checkpoint.files().iter().map(|(_, bytes)| bytes).sum(),
            base_model: text(&config["base_model_name_or_path"]),
            attention: Marker::load(source)?.attention,
        })
    }
}

fn unusable(file: &str, reason: &dyn std::fmt::Display) -> ModelError {
    ModelError::File { file: file.to_owned(), reason: reason.to_string() }
}
