//! The tensors of a checkpoint by name: memory-mapped safetensors files, the binary, or memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};

use super::stored::{Bytes, Format, Stored};
use super::{ModelError, ModelSource};

/// What a file says of a tensor: where it is, or why it cannot be used.
type Entry = Result<Stored, String>;

/// An open checkpoint. Of the files only the headers have been read.
#[derive(Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Open the safetensors files of `stem`: the one, or the shards that an index names.
    ///
    /// # Errors
    /// A file is missing, is no safetensors file, or has a tensor that another has too.
    pub fn open(source: &ModelSource, stem: &str) -> Result<Self, ModelError> {
        let mut checkpoint = Self::default();
        match source {
            ModelSource::Folder(folder) => {
                for path in shards(folder, stem)? {
                    checkpoint.add(&path.display().to_string(), &map(&path)?)?;
                }
            }
            ModelSource::Bundled { files, .. } => {
                let name = format!("{stem}.safetensors");
                let found = files.iter().find(|(file, _)| *file == name);
                let Some((_, bytes)) = found else {
                    return Err(ModelError::Missing { file: name, place: source.place() });
                };
                checkpoint.add(&name, &Bytes::from(*bytes))?;
            }
        }
        Ok(checkpoint)
    }

    /// Tensors that are in memory already.
    ///
    /// # Errors
    /// The device fails.
    pub fn of_tensors(tensors: &BTreeMap<String, Tensor>) -> Result<Self, ModelError> {
        let store = |(name, tensor): (&String, &Tensor)| {
            let stored = Stored::of_tensor(tensor).map_err(|e| ModelError::tensor(name, e))?;
            Ok((name.clone(), Ok(stored)))
        };
        Ok(Self { tensors: tensors.iter().map(store).collect::<Result<_, ModelError>>()? })
    }

    /// Numbers of all tensors that can be used.
    pub fn weights(&self) -> usize {
        self.stored().map(|tensor| tensor.rows() * tensor.width()).sum()
    }

    /// How they are stored.
    pub fn formats(&self) -> BTreeSet<Format> {
        self.stored().map(Stored::format).collect()
    }

    fn stored(&self) -> impl Iterator<Item = &Stored> {
        self.tensors.values().filter_map(|entry| entry.as_ref().ok())
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// It is missing, or cannot be used.
    pub fn get(&self, name: &str) -> Result<Stored, ModelError> {
        match self.tensors.get(name) {
            Some(Ok(stored)) => Ok(stored.clone()),
            Some(Err(reason)) => Err(ModelError::tensor(name, reason)),
            None => Err(ModelError::tensor(name, "missing in the checkpoint")),
        }
    }

    /// Add the tensors of a safetensors file.
    fn add(&mut self, file: &str, bytes: &Bytes) -> Result<(), ModelError> {
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| ModelError::file(file, e))?;
        // Eight bytes say how long the header is.
        let start = 8 + header;
        for (name, info) in metadata.tensors() {
            let (first, end) = info.data_offsets;
            let entry = entry(info, bytes.part(start + first..start + end));
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(ModelError::file(file, format!("tensor {name} is in another file too")));
            }
        }
        Ok(())
    }
}

fn entry(info: &TensorInfo, bytes: Bytes) -> Entry {
    let format = match info.dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::Bf16,
        other => return Err(format!("{other:?} is no type for weights (F32, F16 and BF16 are)")),
    };
    Stored::new(format, info.shape.clone(), bytes)
}

fn map(path: &Path) -> Result<Bytes, ModelError> {
    if !path.is_file() {
        let place = path.parent().map(|p| p.display().to_string()).unwrap_or_default();
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return Err(ModelError::Missing { file, place });
    }
    let file = std::fs::File::open(path).map_err(|e| ModelError::file(path.display(), e))?;
    // SAFETY: the file must not be changed while the model loads, as for every memory-mapped loader.
    let mapped = unsafe { Mmap::map(&file) }.map_err(|e| ModelError::file(path.display(), e))?;
    let len = mapped.len();
    Ok(Bytes::mapped(&Arc::new(mapped), 0..len))
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
        Err(e) => return Err(ModelError::file(index.display(), e)),
    };
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| ModelError::file(index.display(), e))?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        let reason = format!("names {name:?}, which is not a file of this folder");
        return Err(ModelError::file(index.display(), reason));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
