//! Where a model's files come from: a folder in Hugging Face's layout, or the binary itself.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::ModelError;

/// The files of one model: `config.json`, `*.safetensors`, `tokenizer.json`, …
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// A folder on disk.
    Folder(PathBuf),
    /// Files compiled into the binary, by name.
    Bundled {
        /// How the model calls itself.
        name: &'static str,
        /// (file name, content).
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl ModelSource {
    /// A folder on disk.
    pub fn folder(path: impl AsRef<Path>) -> Self {
        Self::Folder(path.as_ref().to_owned())
    }

    /// The model's name: the folder's last component, or the bundled name.
    pub fn name(&self) -> String {
        match self {
            Self::Folder(path) => path
                .canonicalize()
                .ok()
                .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "model".to_owned()),
            Self::Bundled { name, .. } => (*name).to_owned(),
        }
    }

    /// The content of a small file, or `None` if the model has no such file.
    ///
    /// # Errors
    /// The file exists but cannot be read.
    pub fn read(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
        match self {
            Self::Folder(path) => match std::fs::read(path.join(file)) {
                Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(ModelError::File {
                    file: path.join(file).display().to_string(),
                    reason: e.to_string(),
                }),
            },
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
            Self::Bundled { name, .. } => format!("bundled model {name}"),
        }
    }
}
