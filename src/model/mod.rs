//! Models: configuration, weights, and the network over packed rows.

pub mod adapters;
pub mod bundled;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod embedding;
pub mod family;
pub mod gguf;
pub mod host;
pub mod inventory;
pub mod kv;
pub mod layers;
pub mod loader;
pub mod lora;
pub mod marker;
pub mod matrix;
pub(crate) mod names;
pub mod product;
pub mod source;
pub mod stored;
pub mod transformer;

pub use config::ModelConfig;
pub use family::Family;
pub use source::ModelSource;
pub use transformer::Transformer;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// `config.json` says something unusable.
    #[error("config.json: {0}")]
    Config(String),
    /// An architecture this server does not know.
    #[error("config.json: model_type {0:?} is not supported ({known} are)", known = Family::keys())]
    UnknownFamily(String),
    /// A file that must be there is not.
    #[error("{file} is missing in {place}")]
    Missing {
        /// File name.
        file: String,
        /// Folder or bundle.
        place: String,
    },
    /// A file cannot be read or parsed.
    #[error("{file}: {reason}")]
    File {
        /// Path.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The device is not there, or cannot be used.
    #[error("device {device}: {reason}")]
    Device {
        /// As the user names it.
        device: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A tensor is missing, misshapen or of an unusable type.
    #[error("tensor {name}: {reason}")]
    Tensor {
        /// Its name in the checkpoint.
        name: String,
        /// What is wrong, with the shape expected and found.
        reason: String,
    },
}

impl ModelError {
    /// Something is wrong with a tensor.
    pub(crate) fn tensor(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::Tensor { name: name.to_owned(), reason: reason.to_string() }
    }

    /// Something is wrong with a file.
    pub(crate) fn file(file: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        Self::File { file: file.to_string(), reason: reason.to_string() }
    }
}
