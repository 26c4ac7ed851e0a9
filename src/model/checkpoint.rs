//! The tensors of a checkpoint by name: memory-mapped safetensors files, a GGUF file, the binary, or memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::gguf::{Gguf, names, permute};
use super::stored::{Bytes, Format, Stored};
use super::{Family, ModelError, ModelSource};

/// What a file says of a tensor.
#[derive(Debug)]
struct Entry {
    /// Number of the file.
    file: usize,
    /// What the file calls it.
    name: String,
    /// Where it is, or why it cannot be used.
    stored: Result<Stored, String>,
    /// If its rows are interleaved as llama.cpp does it, of how many heads they are.
    heads: Option<usize>,
}

/// An open checkpoint. Of the files only the headers have been read.
#[derive(Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Entry>,
    /// Names and bytes of the files.
    files: Vec<(String, usize)>,
    /// The file that says which tensors there are.
    list: String,
    /// Of a GGUF file, whose tensors have names of their own.
    gguf: Option<Family>,
}

impl Checkpoint {
    /// Open the safetensors files of `stem`: the one, or the shards that an index names; or a GGUF file.
    ///
    /// # Errors
    /// A file is missing or damaged, has a tensor that another has too, or lacks one that the index says it has.
    pub fn open(source: &ModelSource, stem: &str) -> Result<Self, ModelError> {
        let mut checkpoint = Self { list: format!("{stem}.safetensors"), ..Self::default() };
        match source {
            ModelSource::Folder(folder) | ModelSource::Snapshot { folder, .. } => {
                match Index::read(folder, stem)? {
                    None => {
                        let file = checkpoint.list.clone();
                        checkpoint.add(&file, &map(&folder.join(&file))?)?;
                    }
                    Some(index) => {
                        checkpoint.list.clone_from(&index.name);
                        for file in index.files() {
                            checkpoint.add(file, &map(&folder.join(file))?)?;
                        }
                        checkpoint.check_index(&index)?;
                    }
                }
            }
            ModelSource::Gguf(file) => checkpoint.add_gguf(file),
            ModelSource::Bundled { files, .. } => {
                let name = checkpoint.list.clone();
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
            let entry = Entry { file: 0, name: name.clone(), stored: Ok(stored), heads: None };
            Ok((name.clone(), entry))
        };
        let tensors = tensors.iter().map(store).collect::<Result<_, ModelError>>()?;
        let list = "memory".to_owned();
        Ok(Self { tensors, files: vec![(list.clone(), 0)], list, gguf: None })
    }

    /// Names of the files, and their bytes.
    pub fn files(&self) -> &[(String, usize)] {
        &self.files
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
        self.tensors.values().filter_map(|entry| entry.stored.as_ref().ok())
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor `name`, of the shape expected.
    ///
    /// # Errors
    /// It is missing, misshapen or cannot be used; names its file.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<Stored, ModelError> {
        self.format(name, shape)?;
        self.get(name)
    }

    /// How the tensor `name` is stored, if it has the shape expected. Nothing of it is read.
    ///
    /// # Errors
    /// As [`Self::shaped`].
    pub fn format(&self, name: &str, shape: &[usize]) -> Result<Format, ModelError> {
        let stored = self.find(name)?;
        let found = stored.shape();
        if found == shape {
            return Ok(stored.format());
        }
        Err(self.fault(name, format!("expected shape {shape:?}, found {found:?}")))
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// It is missing or cannot be used; names its file.
    pub fn get(&self, name: &str) -> Result<Stored, ModelError> {
        let stored = self.find(name)?;
        match self.tensors.get(name).and_then(|entry| entry.heads) {
            Some(heads) => permute::undo(stored, heads).map_err(|reason| self.fault(name, reason)),
            None => Ok(stored.clone()),
        }
    }

    /// The tensor as it lies in its file.
    fn find(&self, name: &str) -> Result<&Stored, ModelError> {
        match self.tensors.get(name).map(|entry| &entry.stored) {
            Some(Ok(stored)) => Ok(stored),
            Some(Err(reason)) => Err(self.fault(name, reason)),
            None => Err(self.fault(name, "missing")),
        }
    }

    /// Something is wrong with a tensor.
    pub(super) fn fault(&self, name: &str, reason: impl std::fmt::Display) -> ModelError {
        let entry = self.tensors.get(name);
        let file = entry.and_then(|entry| self.files.get(entry.file)).map_or(&self.list, |(file, _)| file);
        let missing = || self.gguf.and_then(|family| names::in_file(family, name));
        let name = entry.map(|entry| entry.name.clone()).or_else(missing).unwrap_or_else(|| name.to_owned());
        ModelError::file(file, format!("tensor {name}: {reason}"))
    }

    fn add_gguf(&mut self, gguf: &Gguf) {
        self.list =
            gguf.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.files.push((self.list.clone(), gguf.size()));
        self.gguf = Some(gguf.config().family);
        for tensor in gguf.tensors() {
            let entry =
                Entry { file: 0, name: tensor.name_in_file, stored: tensor.stored, heads: tensor.heads };
            self.tensors.insert(tensor.name, entry);
        }
    }

    /// Add the tensors of a safetensors file.
    fn add(&mut self, file: &str, bytes: &Bytes) -> Result<(), ModelError> {
        let (header, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| ModelError::file(file, damage(bytes, &e)))?;
        // Eight bytes say how long the header is.
        let start = 8 + header;
        let number = self.files.len();
        self.files.push((file.to_owned(), bytes.len()));
        for (name, info) in metadata.tensors() {
            let (first, end) = info.data_offsets;
            let stored = stored(info, bytes.part(start + first..start + end));
            let entry = Entry { file: number, name: name.clone(), stored, heads: None };
            if let Some(other) = self.tensors.insert(name.clone(), entry) {
                let (other, _) = &self.files[other.file];
                return Err(ModelError::file(file, format!("tensor {name}: stands in {other} too")));
            }
        }
        Ok(())
    }

    /// Every tensor of the index must be where it says.
    fn check_index(&self, index: &Index) -> Result<(), ModelError> {
        let astray = index.weight_map.iter().find(|(name, file)| {
            let entry = self.tensors.get(*name);
            entry.is_none_or(|entry| self.files[entry.file].0 != **file)
        });
        match astray {
            None => Ok(()),
            Some((name, file)) => {
                let reason = format!("tensor {name}: should be in {file}, which does not have it");
                Err(ModelError::file(&index.name, reason))
            }
        }
    }
}

/// What is wrong with a file that is no safetensors file, in which tensor it ends if that can be told.
fn damage(bytes: &[u8], error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::HeaderTooSmall => format!("no safetensors file: it has {} bytes", bytes.len()),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            "no safetensors file: its header would be longer than the file".to_owned()
        }
        SafeTensorError::MetadataIncompleteBuffer => match cut_tensor(bytes) {
            Some(name) => format!("tensor {name}: the file ends within it, after {} bytes", bytes.len()),
            None => "its header and its length do not fit each other".to_owned(),
        },
        other => format!("no safetensors file: {other}"),
    }
}

/// The first tensor of which a file with a sound header does not have all.
fn cut_tensor(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Place {
        data_offsets: [usize; 2],
    }
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (header, data) = (rest.get(..length)?, rest.get(length..)?);
    let places: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let cut = places.into_iter().filter_map(|(name, place)| {
        let [start, end] = serde_json::from_value::<Place>(place).ok()?.data_offsets;
        (end > data.len()).then_some((start, name))
    });
    cut.min().map(|(_, name)| name)
}

fn stored(info: &TensorInfo, bytes: Bytes) -> Result<Stored, String> {
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

/// `STEM.safetensors.index.json`: which tensor is in which file.
struct Index {
    /// Its own name.
    name: String,
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(folder: &Path, stem: &str) -> Result<Option<Self>, ModelError> {
        #[derive(serde::Deserialize)]
        struct Content {
            weight_map: BTreeMap<String, String>,
        }
        let name = format!("{stem}.safetensors.index.json");
        let text = match std::fs::read(folder.join(&name)) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(ModelError::file(&name, e)),
        };
        let Content { weight_map } = serde_json::from_slice(&text).map_err(|e| ModelError::file(&name, e))?;
        let outside = |file: &String| Path::new(file).file_name() != Some(file.as_ref());
        if let Some((tensor, file)) = weight_map.iter().find(|(_, file)| outside(file)) {
            let reason = format!("tensor {tensor}: {file:?} is not a file of this folder");
            return Err(ModelError::file(&name, reason));
        }
        Ok(Some(Self { name, weight_map }))
    }

    fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// The files of `stem`: the shards an index names, or the one file.
///
/// # Errors
/// The index is unreadable, or names a file outside the folder.
pub fn shards(folder: &Path, stem: &str) -> Result<Vec<PathBuf>, ModelError> {
    Ok(match Index::read(folder, stem)? {
        Some(index) => index.files().into_iter().map(|name| folder.join(name)).collect(),
        None => vec![folder.join(format!("{stem}.safetensors"))],
    })
}
