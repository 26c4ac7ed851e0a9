//! The model compiled into the program: a tiny LLaDA network that solves Countdown problems with EvoToken.

use super::ModelSource;

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
