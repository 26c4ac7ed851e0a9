//! The model compiled into the program: a tiny LLaDA network that solves Countdown problems, and its EvoToken adapter.

use std::path::Path;

use super::ModelSource;

/// The model and the adapter that somebody asked for: folders, and without a model folder the bundled ones.
pub fn sources(model: Option<&Path>, adapter: Option<&Path>) -> (ModelSource, Option<ModelSource>) {
    let adapter = adapter.map(ModelSource::folder);
    match model {
        Some(folder) => (ModelSource::folder(folder), adapter),
        None => (COUNTDOWN, Some(adapter.unwrap_or(EVOTOKEN))),
    }
}

macro_rules! file {
    ($folder:literal, $name:literal) => {
        (
            $name,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/countdown/", $folder, "/", $name)),
        )
    };
}

/// The bundled base model: nothing to download, nothing to configure.
pub const COUNTDOWN: ModelSource = ModelSource::Bundled {
    name: "countdown",
    files: &[
        file!("base", "config.json"),
        file!("base", "generation_config.json"),
        file!("base", "model.safetensors"),
        file!("base", "tokenizer.json"),
        file!("base", "tokenizer_config.json"),
    ],
};

/// The adapter that makes it an EvoToken model; merged in unless another one is asked for.
pub const EVOTOKEN: ModelSource = ModelSource::Bundled {
    name: "countdown adapter evotoken",
    files: &[
        file!("adapters/evotoken", "adapter_config.json"),
        file!("adapters/evotoken", "adapter_model.safetensors"),
        file!("adapters/evotoken", "generation_config.json"),
    ],
};
