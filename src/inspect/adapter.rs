//! A LoRA adapter, from its folder.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::decode::Attention;
use crate::model::lora::Adapter;
use crate::model::marker::Marker;
use crate::model::{ModelError, ModelSource};

/// An adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdapterReport {
    /// Rank of its matrices.
    pub rank: usize,
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
    /// A file is missing or damaged, or the adapter is of a kind that cannot be served.
    pub(super) fn of(source: &ModelSource) -> Result<Self, ModelError> {
        let adapter = Adapter::open(source)?;
        let (mut modules, mut layers) = (BTreeMap::new(), BTreeSet::new());
        for path in adapter.modules() {
            let name = path.rsplit('.').next().unwrap_or(path);
            *modules.entry(name.to_owned()).or_default() += 1;
            layers.extend(path.split('.').find_map(|part| part.parse::<usize>().ok()));
        }
        Ok(Self {
            rank: adapter.rank(),
            alpha: adapter.alpha(),
            modules,
            layers: layers.len(),
            parameters: adapter.checkpoint().weights(),
            bytes: adapter.checkpoint().files().iter().map(|(_, bytes)| bytes).sum(),
            base_model: adapter.base_model().map(str::to_owned),
            attention: Marker::load(source)?.attention,
        })
    }
}
