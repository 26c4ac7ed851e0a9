//! The model compiled into the program: a tiny LLaDA network that solves Countdown problems with EvoToken.

use std::path::Path;

use super::{ModelError, ModelSource};

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/countdown/evotoken/", $name)))
    };
}

/// The bundled model: nothing to download, nothing to configure.
pub const COUNTDOWN: ModelSource = ModelSource::Bundled {
    name: "countdown",
    files: &[
        file!("config.json"),
        file!("generation_config.json"),
        file!("model.safetensors"),
        file!("tokenizer.json"),
        file!("tokenizer_config.json"),
    ],
};

/// The model that somebody asked for: a folder or a GGUF file, and without one the bundled model.
///
/// # Errors
/// It is a file that is no usable GGUF file.
pub fn or_path(model: Option<&Path>) -> Result<ModelSource, ModelError> {
    model.map_or(Ok(COUNTDOWN), ModelSource::open)
}
