//! Where a model's files come from: a folder in Hugging Face's layout, a GGUF file, or the binary itself.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::ModelError;
use super::gguf::Gguf;

/// The files of one model: `config.json`, `*.safetensors`, `tokenizer.json`, …
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A folder on disk.
    Folder(PathBuf),
    /// A folder of what was downloaded from a hub.
    Snapshot {
        /// The model's name there, `org/name`.
        name: String,
        /// Where it is, by the name of its commit.
        folder: PathBuf,
    },
    /// A GGUF file; small files of Hugging Face's layout that lie beside it go before what it says itself.
    Gguf(Arc<Gguf>),
    /// Files compiled into the binary, by name.
    Bundled {
        /// How the model calls itself.
        name: &'static str,
        /// (file name, content).
        files: &'static [(&'static str, &'static [u8])],
    },
}

/// The small file of which a GGUF file has a part.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

impl ModelSource {
    /// What lies at `path`: a GGUF file, or else a folder.
    ///
    /// # Errors
    /// It is a file that is no usable GGUF file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        if path.is_file() || path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
            return Ok(Self::Gguf(Arc::new(Gguf::open(path)?)));
        }
        Ok(Self::folder(path))
    }

    /// A folder on disk.
    pub fn folder(path: impl AsRef<Path>) -> Self {
        Self::Folder(path.as_ref().to_owned())
    }

    /// The model's name: the folder's last component, what the file calls itself, the hub's, or the bundled name.
    pub fn name(&self) -> String {
        match self {
            Self::Folder(path) => path
                .canonicalize()
                .ok()
                .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "model".to_owned()),
            Self::Gguf(file) => file.name(),
            Self::Snapshot { name, .. } => name.clone(),
            Self::Bundled { name, .. } => (*name).to_owned(),
        }
    }

    /// The content of a small file, or `None` if the model has no such file.
    ///
    /// # Errors
    /// The file exists but cannot be read.
    pub fn read(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
        match self {
            Self::Folder(path) | Self::Snapshot { folder: path, .. } => read_beside(path, file),
            Self::Gguf(gguf) => {
                let beside = read_beside(gguf.path().parent().unwrap_or(Path::new("")), file)?;
                match file == TOKENIZER_CONFIG {
                    true => completed(gguf, beside).map(Some),
                    false => Ok(beside),
                }
            }
            Self::Bundled { files, .. } => {
                Ok(files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| Cow::Borrowed(*bytes)))
            }
        }
    }

    /// Like [`Self::read`], for a file the model cannot do without.
    ///
    /// # Errors
    /// The file is missing or cannot be read.
    pub fn require(&self, file: &str) -> Result<Cow<'static, [u8]>, ModelError> {
        self.read(file)?.ok_or_else(|| ModelError::Missing { file: file.to_owned(), place: self.place() })
    }

    /// Where the files are, for messages.
    pub fn place(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Snapshot { name, folder } => format!("{name} ({})", folder.display()),
            Self::Gguf(file) => file.path().display().to_string(),
            Self::Bundled { name, .. } => format!("bundled model {name}"),
        }
    }
}

fn read_beside(folder: &Path, file: &str) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
    let path = folder.join(file);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ModelError::File { file: path.display().to_string(), reason: e.to_string() }),
    }
}

/// What a GGUF file says of its tokenizer, and over it what a file beside it says.
fn completed(gguf: &Gguf, beside: Option<Cow<'_, [u8]>>) -> Result<Cow<'static, [u8]>, ModelError> {
    let mut fields = gguf.tokenizer_config();
    if let Some(text) = beside {
        let unusable =
            |e: serde_json::Error| ModelError::File { file: TOKENIZER_CONFIG.into(), reason: e.to_string() };
        fields.extend(serde_json::from_slice::<Map<String, Value>>(&text).map_err(unusable)?);
    }
    Ok(Cow::Owned(Value::Object(fields).to_string().into_bytes()))
}
