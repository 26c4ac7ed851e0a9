//! Weights by name and shape, from memory-mapped safetensors files, the binary or memory, with a PEFT adapter merged in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::{MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;

use super::lora::Adapter;
use super::{ModelError, ModelSource};

/// An open checkpoint. Tensors are read when asked for.
pub struct Weights {
    files: Files,
    adapter: Option<Adapter>,
    device: Device,
}

/// Tensors by name, wherever they are.
pub(super) enum Files {
    Mapped(MmapedSafetensors),
    Bundled(SliceSafetensors<'static>),
    Memory(BTreeMap<String, Tensor>),
}

impl Files {
    /// Open the safetensors files of `stem`: the one, or the shards that an index names.
    pub fn open(source: &ModelSource, stem: &str) -> Result<Self, ModelError> {
        match source {
            ModelSource::Folder(folder) => Ok(Self::Mapped(map_files(&shards(folder, stem)?)?)),
            ModelSource::Bundled { files, .. } => {
                let name = format!("{stem}.safetensors");
                let found = files.iter().find(|(file, _)| *file == name);
                let Some((_, bytes)) = found else {
                    return Err(ModelError::Missing { file: name, place: source.place() });
                };
                Ok(Self::Bundled(SliceSafetensors::new(bytes).map_err(|e| bad_file(name, e))?))
            }
        }
    }

    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Mapped(files) => files.tensors().into_iter().map(|(name, _)| name).collect(),
            Self::Bundled(files) => files.tensors().into_iter().map(|(name, _)| name).collect(),
            Self::Memory(tensors) => tensors.keys().cloned().collect(),
        }
    }

    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor, ModelError> {
        let read = match self {
            Self::Mapped(files) => {
                files.get(name).and_then(check_strides).and_then(|()| files.load(name, device))
            }
            Self::Bundled(files) => files.load(name, device),
            Self::Memory(tensors) => match tensors.get(name) {
                Some(tensor) => tensor.to_device(device),
                None => Err(candle_core::Error::CannotFindTensor { path: name.to_owned() }),
            },
        };
        read.map_err(|e| tensor_error(name, e))
    }
}

impl Weights {
    /// Open the checkpoint of `source`: `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// A file is missing or is no safetensors file.
    pub fn open(source: &ModelSource, adapter: Option<Adapter>, device: &Device) -> Result<Self, ModelError> {
        Ok(Self { files: Files::open(source, "model")?, adapter, device: device.clone() })
    }

    /// Weights that are in memory already, by their names in a checkpoint.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>, device: &Device) -> Self {
        Self { files: Files::Memory(tensors), adapter: None, device: device.clone() }
    }

    /// The tensor `name` as f32, with the adapter's change added if it has one for this module.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = check_shape(name, self.files.load(name, &self.device)?, shape)?;
        let Some(module) = name.strip_suffix(".weight") else { return Ok(tensor) };
        let change = match &mut self.adapter {
            Some(adapter) => adapter.take(module, shape)?,
            None => None,
        };
        match change {
            Some(change) => (tensor + change).map_err(|e| tensor_error(name, e)),
            None => Ok(tensor),
        }
    }

    /// To be called when the network has all its weights.
    ///
    /// # Errors
    /// The adapter has tensors for modules that the model does not have.
    pub fn finish(self) -> Result<(), ModelError> {
        self.adapter.map_or(Ok(()), Adapter::finish)
    }
}

/// The files of `stem`: the shards an index names, or the one file.
///
/// # Errors
/// The index is unreadable, or names a file outside the folder.
pub fn shards(folder: &Path, stem: &str) -> Result<Vec<PathBuf>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = folder.join(format!("{stem}.safetensors.index.json"));
    let text = match std::fs::read(&index) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(vec![folder.join(format!("{stem}.safetensors"))]);
        }
        Err(e) => return Err(bad_file(index.display(), e)),
    };
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| bad_file(index.display(), e))?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(bad_file(index.display(), format!("names {name:?}, which is not a file of this folder")));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn map_files(paths: &[PathBuf]) -> Result<MmapedSafetensors, ModelError> {
    if let Some(path) = paths.iter().find(|path| !path.is_file()) {
        let place = path.parent().map(|p| p.display().to_string()).unwrap_or_default();
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return Err(ModelError::Missing { file, place });
    }
    let list = || paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    // SAFETY: the files must not be changed while the model loads, as for every memory-mapped loader.
    unsafe { MmapedSafetensors::multi(paths) }.map_err(|e| bad_file(list(), e))
}

/// A file may hold a tensor of no elements whose other lengths are too large to multiply, which candle does.
fn check_strides(view: TensorView<'_>) -> candle_core::Result<()> {
    let mut lengths = view.shape().iter().map(|length| (*length).max(1));
    match lengths.try_fold(1, usize::checked_mul) {
        Some(_) => Ok(()),
        None => Err(candle_core::Error::msg(format!("its shape {:?} is none", view.shape()))),
    }
}

/// `tensor` as f32, if it has the shape expected.
pub(super) fn check_shape(name: &str, tensor: Tensor, shape: &[usize]) -> Result<Tensor, ModelError> {
    if tensor.dims() != shape {
        let reason = format!("expected shape {shape:?}, found {:?}", tensor.dims());
        return Err(ModelError::Tensor { name: name.to_owned(), reason });
    }
    tensor.to_dtype(DType::F32).map_err(|e| tensor_error(name, e))
}

pub(super) fn tensor_error(name: &str, error: candle_core::Error) -> ModelError {
    let reason = match error {
        candle_core::Error::CannotFindTensor { .. } => "missing in the checkpoint".to_owned(),
        other => other.to_string(),
    };
    ModelError::Tensor { name: name.to_owned(), reason }
}

fn bad_file(file: impl std::fmt::Display, reason: impl std::fmt::Display) -> ModelError {
    ModelError::File { file: file.to_string(), reason: reason.to_string() }
}
