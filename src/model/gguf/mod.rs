//! GGUF files of the architectures `llada` and `dream`, as llama.cpp writes them: one file with the weights, the sizes and
//! the tokenizer.

mod config;
mod format;
mod header;
pub(super) mod names;
pub(super) mod permute;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use serde_json::{Map, Value as Json};

pub use header::{Damage, Entry, Header, Value};

use super::stored::{Bytes, Stored};
use super::{ModelConfig, ModelError};

/// An open file; its head is read, its tensors are mapped.
#[derive(Debug, Clone)]
pub struct Gguf {
    path: PathBuf,
    header: Header,
    map: Arc<Mmap>,
    config: ModelConfig,
}

/// A tensor of a file.
pub struct Tensor {
    /// Its name in a checkpoint of Hugging Face's layout; if it is none of a model's, that in the file.
    pub name: String,
    /// Its name in the file.
    pub name_in_file: String,
    /// What is there, or why it cannot be used.
    pub stored: Result<Stored, String>,
    /// If its rows are interleaved, of how many heads they are.
    pub heads: Option<usize>,
}

impl Gguf {
    /// Open a file and read its head.
    ///
    /// # Errors
    /// It is no GGUF file, damaged, or of a network that is not supported. Names the tensor or the key.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::File { file: path.display().to_string(), reason };
        let file = File::open(path).map_err(|e| failed(e.to_string()))?;
        // SAFETY: the file must not be changed while the model is in use, as for every memory-mapped loader.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| failed(e.to_string()))?;
        let header = Header::parse(&map).map_err(|damage| match damage.tensor {
            Some(tensor) => failed(format!("tensor {tensor}: {}", damage.reason)),
            None => failed(damage.reason),
        })?;
        let config = config::model(&header).map_err(failed)?;
        Ok(Self { path: path.to_owned(), header, map: Arc::new(map), config })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn size(&self) -> usize {
        self.map.len()
    }

    /// What the head says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The model's name: `general.name`, else the file's without its ending.
    pub fn name(&self) -> String {
        let stem = || self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        self.text("general.name")
            .filter(|name| !name.trim().is_empty())
            .or_else(stem)
            .unwrap_or_else(|| "model".to_owned())
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.header.metadata.get(key) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// All tensors.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor> {
        self.header.tensors.iter().map(|(name, entry)| {
            let ours = names::checkpoint(self.config.family, name).unwrap_or_else(|| name.clone());
            Tensor {
                heads: self.interleaved(&ours),
                name: ours,
                name_in_file: name.clone(),
                stored: self.stored(entry),
            }
        })
    }

    fn stored(&self, entry: &Entry) -> Result<Stored, String> {
        let format = format::format(entry.format)?;
        let shape = entry.lengths.iter().rev().map(|length| usize::try_from(*length).ok());
        let shape: Option<Vec<usize>> = shape.collect();
        let outer = |shape: &[usize]| {
            let (width, outer) =
                shape.split_last().map_or((1, [].as_slice()), |(width, outer)| (*width, outer));
            outer.iter().try_fold(format.row_bytes(width)?, |bytes, length| bytes.checked_mul(*length))
        };
        let Some(shape) = shape else { return Err(format!("its lengths {:?} are none", entry.lengths)) };
        // What is no whole number of blocks is said by the constructor.
        let size = outer(&shape).unwrap_or(0);
        let first = usize::try_from(entry.place).ok().and_then(|place| self.header.start.checked_add(place));
        let range = first.and_then(|first| Some(first..first.checked_add(size)?));
        match range.filter(|range| range.end <= self.map.len()) {
            Some(range) => Stored::new(format, shape, Bytes::mapped(&self.map, range)),
            None => {
                Err(format!("its {size} bytes are not all there: the file ends after {}", self.map.len()))
            }
        }
    }

    /// Of a tensor whose rows llama.cpp interleaves, the number of heads.
    fn interleaved(&self, name: &str) -> Option<usize> {
        if !self.config.family.interleaved_in_gguf() {
            return None;
        }
        let (queries, keys) = (name.ends_with(".q_proj.weight"), name.ends_with(".k_proj.weight"));
        queries.then_some(self.config.heads).or_else(|| keys.then_some(self.config.kv_heads))
    }

    /// What a `tokenizer_config.json` would say: the chat template and the special tokens by their texts.
    pub fn tokenizer_config(&self) -> Map<String, Json> {
        let Some(Value::Texts(tokens)) = self.header.metadata.get("tokenizer.ggml.tokens") else {
            return Map::new();
        };
        let kinds = ["bos", "eos", "unknown", "padding", "mask"];
        let token = |kind: &&str| {
            let id = config::id(&self.header, &format!("tokenizer.ggml.{kind}_token_id"))?;
            let name = match *kind {
                "unknown" => "unk_token",
                "padding" => "pad_token",
                other => return Some((format!("{other}_token"), tokens.get(id as usize)?.clone().into())),
            };
            Some((name.to_owned(), tokens.get(id as usize)?.clone().into()))
        };
        let mut fields: Map<String, Json> = kinds.iter().filter_map(token).collect();
        if let Some(template) = self.text("tokenizer.chat_template") {
            fields.insert("chat_template".to_owned(), template.into());
        }
        fields
    }
}
