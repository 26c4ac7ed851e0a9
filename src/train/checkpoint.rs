//! Checkpoints: one file with weights, optimizer moments and counters, replaced atomically.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::network::Weights;
use super::optimizer::{AdamW, Moments};

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Updates made.
    pub updates: usize,
    /// Rows used, which is the position in the data.
    pub rows: u64,
    /// Tokens fed in, all stages counted.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Mean loss of the last updates.
    pub loss: f64,
}

const PROGRESS: &str = "progress";

/// Write tensors and text to a safetensors file, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write_tensors(path: &Path, tensors: &Weights, note: Option<(&str, String)>) -> Result<()> {
    let mut metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    metadata.extend(note.map(|(key, text)| (key.to_owned(), text)));
    let bytes = safetensors::serialize(tensors.iter(), Some(metadata))?;
    super::files::replace(path, |file| Ok(file.write_all(&bytes)?))
}

/// Read all tensors of a safetensors file as f32.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn read_tensors(path: &Path, device: &Device) -> Result<Weights> {
    let place = || format!("cannot read {}", path.display());
    let bytes = std::fs::read(path).with_context(place)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, device).with_context(place)?;
    tensors.into_iter().map(|(name, t)| Ok((name, t.to_dtype(DType::F32)?))).collect()
}

/// Save a run.
///
/// # Errors
/// The file cannot be written; an older checkpoint stays as it was.
pub fn save(path: &Path, variables: &BTreeMap<String, Var>, adam: &AdamW, progress: &Progress) -> Result<()> {
    let mut all = Weights::new();
    for (name, variable) in variables {
        all.insert(format!("weight/{name}"), variable.as_detached_tensor());
    }
    for (name, moments) in &adam.moments {
        all.insert(format!("mean/{name}"), moments.mean.clone());
        all.insert(format!("square/{name}"), moments.square.clone());
    }
    write_tensors(path, &all, Some((PROGRESS, serde_json::to_string(progress)?)))
}

/// Load a run into its variables and optimizer.
///
/// # Errors
/// The file cannot be read or is of another network.
pub fn load(path: &Path, variables: &BTreeMap<String, Var>, adam: &mut AdamW) -> Result<Progress> {
    let place = || format!("checkpoint {}", path.display());
    let bytes = std::fs::read(path).with_context(place)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(place)?;
    let note = header.metadata().as_ref().and_then(|m| m.get(PROGRESS));
    let progress: Progress =
        serde_json::from_str(note.with_context(|| format!("{} has no progress note", place()))?)
            .with_context(place)?;
    let tensors = read_tensors(path, &Device::Cpu)?;
    let find = |kind: &str, name: &str| -> Result<&Tensor> {
        tensors.get(&format!("{kind}/{name}")).with_context(|| format!("{} has no {kind} of {name}", place()))
    };
    for (name, variable) in variables {
        variable.set(&find("weight", name)?.to_device(variable.device())?).with_context(place)?;
        let [mean, square] = [find("mean", name)?, find("square", name)?];
        let (mean, square) = (mean.to_device(variable.device())?, square.to_device(variable.device())?);
        adam.moments.insert(name.clone(), Moments { mean, square });
    }
    adam.updates = progress.updates;
    Ok(progress)
}

/// The weights alone of a checkpoint.
///
/// # Errors
/// The file cannot be read.
pub fn weights(path: &Path) -> Result<Weights> {
    let tensors = read_tensors(path, &Device::Cpu)?;
    Ok(tensors
        .into_iter()
        .filter_map(|(name, t)| Some((name.strip_prefix("weight/")?.to_owned(), t)))
        .collect())
}
