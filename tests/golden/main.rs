//! The golden cases of the reference implementation, through the packed backend that serves.
//!
//! Ticks by the operations of a device run on the CPU, or on the device that `GOLDEN_DEVICE` names.
//! Reads the model folders of `tests/fixtures`, or of the folder that `GOLDENS_DIR` names (the same format).
//! Tolerances: ids, number of forward passes, selected positions, tokens and top-k ids exactly; probabilities 2e-4;
//! logits 1e-3.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod decode;
mod far;
mod logits;
mod pooled;
mod prefix;

use std::path::{Path, PathBuf};

use evotoken::backend::device::{DeviceChoice, Placement};
use evotoken::backend::{CandleBackend, PoolChoice};
use evotoken::engine::batch::AdapterId;
use evotoken::model::kv::gathered::Ragged;
use evotoken::model::product::Holding;
use evotoken::model::{ModelError, ModelSource};

/// The golden folders: those with a `config.json` and a `cases.json`.
fn folders() -> Vec<PathBuf> {
    let root = std::env::var_os("GOLDENS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), PathBuf::from);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("config.json").is_file() && folder.join("cases.json").is_file());
    folders.sort();
    assert!(!folders.is_empty(), "no golden folders in {}", root.display());
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// Who runs a model's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ticks {
    /// The processor's own kernels, a slot per sequence.
    Host,
    /// The operations of a device, on [`device`]: a pool, one upload and one download; attention in padded groups.
    Padded,
    /// The same with attention in one call, where that takes the weights: else on the CPU.
    Varlen,
}

impl Ticks {
    /// How segments attend; `None`: in slots of their own.
    fn ragged(self) -> Option<Ragged> {
        match self {
            Self::Host => None,
            Self::Padded => Some(Ragged::Padded),
            Self::Varlen => Some(Ragged::Varlen),
        }
    }

    /// Where a model runs that is held so.
    fn device(self, holding: Holding) -> DeviceChoice {
        let on_gpu = match self {
            Self::Host => false,
            Self::Padded => true,
            Self::Varlen => cfg!(feature = "flash-attn") && holding == Holding::Bf16,
        };
        if on_gpu { device() } else { DeviceChoice::Cpu }
    }
}

/// Where pooled ticks run: the CPU, or what `GOLDEN_DEVICE` names.
fn device() -> DeviceChoice {
    let named = std::env::var("GOLDEN_DEVICE").ok();
    named.map_or(DeviceChoice::Cpu, |name| name.parse().unwrap_or_else(|e| panic!("GOLDEN_DEVICE: {e}")))
}

/// K/V bytes of a pool: some thousand positions of a golden model.
const POOL: usize = 1 << 26;

/// The model of a golden folder, and its adapter if it has one; `None`, said aloud, if its family is not supported.
fn load(folder: &Path, ticks: Ticks) -> Option<(CandleBackend, Option<AdapterId>)> {
    load_as(folder, Holding::Auto, ticks)
}

/// The same with its weights held in some format.
fn load_as(folder: &Path, holding: Holding, ticks: Ticks) -> Option<(CandleBackend, Option<AdapterId>)> {
    let adapter = folder.join("adapter");
    let source = ModelSource::folder(folder);
    let placement = Placement { device: ticks.device(holding), holding };
    let loaded = match ticks.ragged() {
        None => CandleBackend::load(&source, placement),
        ragged => CandleBackend::load_pooled(&source, placement, PoolChoice { bytes: Some(POOL), ragged }),
    };
    match loaded {
        Ok(backend) => {
            let load = || {
                backend.adapter_loader().load(AdapterId(1), &ModelSource::folder(&adapter)).unwrap();
                AdapterId(1)
            };
            let adapter = adapter.is_dir().then(load);
            Some((backend, adapter))
        }
        Err(ModelError::UnknownFamily(family)) => {
            println!("{}: model family {family:?} is not supported, nothing was checked", name(folder));
            None
        }
        Err(error) => panic!("{}: {error}", folder.display()),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
