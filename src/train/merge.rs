//! A model with an adapter merged into its weights, as a folder of its own.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};

use super::files;
use super::network::Weights;
use crate::model::ModelSource;
use crate::model::checkpoint::shards;
use crate::model::lora::Adapter;

/// Write `model` with `adapter` merged in to the folder `out`: W + (lora_alpha / r) B A, computed in f32 and kept in
/// the type W has. Other files of the model are copied; what those of the adapter say of decoding and attention replaces what they say. The
/// memory of one shard of the model is needed.
///
/// # Errors
/// A file cannot be read or written, or the adapter does not fit the model.
pub fn merge(model: &Path, adapter: &Path, out: &Path) -> Result<()> {
    if out.join("config.json").exists() {
        bail!("{} holds a model already", out.display());
    }
    let mut changes = Adapter::open(&ModelSource::folder(adapter))?;
    for shard in shards(model, "model")? {
        let place = || format!("cannot merge {}", shard.display());
        let bytes = std::fs::read(&shard).with_context(place)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).with_context(place)?;
        drop(bytes);
        let mut merged = Weights::new();
        for (name, tensor) in tensors {
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            let tensor = match changes.take(module, tensor.dims(), &Device::Cpu)? {
                Some(change) => {
                    (tensor.to_dtype(DType::F32)? + change.matrix(module)?)?.to_dtype(tensor.dtype())?
                }
                None => tensor,
            };
            merged.insert(name, tensor);
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let bytes = safetensors::serialize(merged.iter(), Some(metadata))?;
        let name = shard.file_name().context("a shard is a file")?;
        files::replace(&out.join(name), |file| Ok(file.write_all(&bytes)?))?;
    }
    changes.finish()?;
    copy_companions(model, out)?;
    let index = model.join("model.safetensors.index.json");
    if index.is_file() {
        copy(&index, out)?;
    }
    for name in ["generation_config.json", "evotoken.json"] {
        let own = adapter.join(name);
        if own.is_file() {
            merge_json(&own, &out.join(name))?;
        }
    }
    // Last, because it makes the folder a model.
    copy(&model.join("config.json"), out)
}

/// Copy what stands beside the weights of a model: tokenizer, templates, decoding defaults. Not the configuration, which
/// makes a folder a model, nor the card and what belongs to the weights.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn copy_companions(model: &Path, out: &Path) -> Result<()> {
    for entry in std::fs::read_dir(model).with_context(|| format!("cannot read {}", model.display()))? {
        let path = entry?.path();
        let kind =
            path.extension().is_some_and(|e| e == "json" || e == "jinja" || e == "txt" || e == "model");
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if kind && path.is_file() && name != "config.json" && !name.ends_with(".index.json") {
            copy(&path, out)?;
        }
    }
    Ok(())
}

fn copy(path: &Path, out: &Path) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = path.file_name().context("a path to a file")?;
    files::replace(&out.join(name), |file| Ok(file.write_all(&bytes)?))
}

/// Put the top-level fields of one JSON file over those of another.
fn merge_json(from: &Path, into: &Path) -> Result<()> {
    type Fields = serde_json::Map<String, serde_json::Value>;
    let read = |path: &Path| -> Result<Fields> {
        let place = || format!("cannot read {}", path.display());
        serde_json::from_slice(&std::fs::read(path).with_context(place)?).with_context(place)
    };
    let mut fields = if into.is_file() { read(into)? } else { Fields::new() };
    fields.extend(read(from)?);
    super::export::write_text(into, &(serde_json::to_string_pretty(&fields)? + "\n"))
}
