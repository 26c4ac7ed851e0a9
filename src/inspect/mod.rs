//! What a model or an adapter is, and whether it could be served, from its headers and small files: no weight is read.

mod adapter;
mod text;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

pub use adapter::AdapterReport;

use crate::decode::Attention;
use crate::hub::{self, Hub};
use crate::model::checkpoint::Checkpoint;
use crate::model::inventory::{Inventory, wanted};
use crate::model::kv::slots::Slots;
use crate::model::lora;
use crate::model::marker::Marker;
use crate::model::product::Holding;
use crate::model::stored::Format;
use crate::model::{ModelConfig, ModelError, ModelSource};
use crate::service::GenerationDefaults;
use crate::text::Tokenizer;
use crate::text::chat_template::ChatTemplate;

/// All that is found. What could not be read is `None`, and the reason is among the problems.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Where it is.
    pub place: String,
    /// The network.
    pub network: Option<NetworkReport>,
    /// Its weights in files and in memory.
    pub weights: Option<WeightsReport>,
    /// Which positions see which, if its `evotoken.json` says so.
    pub attention: Option<Attention>,
    /// What goes with text.
    pub text: Option<TextReport>,
    /// A LoRA adapter, if it is one.
    pub adapter: Option<AdapterReport>,
    /// Tensors that nobody reads.
    pub unused: Vec<String>,
    /// Why it cannot be served; empty if it can.
    pub problems: Vec<String>,
}

/// A network's sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkReport {
    /// `LLaDA` or `Dream`.
    pub architecture: &'static str,
    /// Numbers of all its tensors.
    pub parameters: usize,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of the SwiGLU part.
    pub mlp: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Whether the head is the embedding table.
    pub tied_head: bool,
    /// Whether the head's output is for the next position.
    pub shifted_logits: bool,
    /// Longest prompt with its answer, in tokens.
    pub context_length: usize,
    /// K/V memory of one of them on the CPU, in bytes: f32.
    pub kv_bytes_per_token: usize,
    /// The same on a GPU with bf16 weights; with f32 weights it is as on the CPU.
    pub kv_bytes_per_token_bf16: usize,
}

/// Files and memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightsReport {
    /// Bytes of each file, by its name.
    pub files: BTreeMap<String, usize>,
    /// The formats in which tensors that are used are stored.
    pub formats: BTreeMap<&'static str, FormatReport>,
    /// Bytes of memory for the weights, by the value of `model.weights`.
    pub memory: BTreeMap<String, usize>,
}

/// The tensors of one format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FormatReport {
    /// How many they are.
    pub tensors: usize,
    /// Their bytes in the files.
    pub bytes: usize,
}

/// What goes with text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextReport {
    /// Tokens that the tokenizer knows.
    pub tokens: usize,
    /// The mask token.
    pub mask: TokenReport,
    /// End-of-text tokens.
    pub end_of_text: Vec<TokenReport>,
    /// Whether there is a chat template.
    pub chat_template: bool,
    /// Whether the makers recommend settings (`generation_config.json`).
    pub generation_config: bool,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenReport {
    /// Its id.
    pub id: u32,
    /// How the vocabulary spells it, if it has it.
    pub name: Option<String>,
}

impl Report {
    /// Look at what `path` stands for: a model folder, a GGUF file, an adapter's folder, or a model of the hub.
    pub fn of(path: &Path, hub: &Hub) -> Self {
        let mut report = Self { place: path.display().to_string(), ..Self::default() };
        match hub::open(path, hub) {
            Err(error) => report.problems.push(error.to_string()),
            Ok(source) if path.join(lora::CONFIG).is_file() => {
                report.adapter = report.note(AdapterReport::of(&source));
            }
            Ok(source) => report.look(&source),
        }
        report
    }

    /// What was found, or the problem put down.
    fn note<T, E: std::fmt::Display>(&mut self, found: Result<T, E>) -> Option<T> {
        found.map_err(|error| self.problems.push(error.to_string())).ok()
    }

    fn look(&mut self, source: &ModelSource) {
        let config = self.note(ModelConfig::load(source));
        let checkpoint = self.note(Checkpoint::open(source, "model"));
        self.attention = self.note(Marker::load(source)).and_then(|marker| marker.attention);
        self.network = config.as_ref().map(NetworkReport::of);
        if let (Some(config), Some(checkpoint)) = (&config, &checkpoint) {
            let inventory = Inventory::of(config, checkpoint);
            self.weights = Some(WeightsReport::of(config, checkpoint, &inventory));
            self.problems.extend(inventory.faults.iter().map(ModelError::to_string));
            self.unused = inventory.unused;
        }
        let template = self.note(ChatTemplate::find(source)).flatten();
        let generation = self.note(source.read("generation_config.json")).flatten();
        let defaults = generation.as_ref().map(|json| GenerationDefaults::from_json(json));
        let defaults = defaults.and_then(|parsed| self.note(parsed));
        if let (Some(tokenizer), Some(config)) = (self.note(Tokenizer::load(source)), config) {
            let token = |id: u32| TokenReport { id, name: tokenizer.name(id) };
            let end = defaults.and_then(|defaults| defaults.eos_ids).unwrap_or(config.eos_ids);
            self.text = Some(TextReport {
                tokens: tokenizer.tokens(),
                mask: token(config.mask_id),
                end_of_text: end.into_iter().map(token).collect(),
                chat_template: template.is_some(),
                generation_config: generation.is_some(),
            });
        }
    }
}

impl NetworkReport {
    fn of(config: &ModelConfig) -> Self {
        Self {
            architecture: config.family.title(),
            parameters: wanted(config).iter().map(|tensor| tensor.count()).sum(),
            layers: config.layers,
            width: config.width,
            heads: config.heads,
            kv_heads: config.kv_heads,
            mlp: config.mlp,
            vocabulary: config.vocab,
            tied_head: config.tied_head,
            shifted_logits: config.shifted(),
            context_length: config.max_positions,
            kv_bytes_per_token: Slots::bytes_per_position(config),
            kv_bytes_per_token_bf16: Slots::bytes_per_position(config) / 2,
        }
    }
}

/// The values of `model.weights`.
const HOLDINGS: [(&str, Holding); 6] = [
    ("auto", Holding::Auto),
    ("as_stored", Holding::AsStored),
    ("f32", Holding::F32),
    ("bf16", Holding::Bf16),
    ("q8_0", Holding::Q8_0),
    ("q4k", Holding::Q4k),
];

impl WeightsReport {
    fn of(config: &ModelConfig, checkpoint: &Checkpoint, inventory: &Inventory) -> Self {
        let mut formats: BTreeMap<&str, FormatReport> = BTreeMap::new();
        for (tensor, format) in &inventory.found {
            let of_format = formats.entry(Format::name(*format)).or_default();
            of_format.tensors += 1;
            of_format.bytes += tensor.bytes(*format);
        }
        let memory = HOLDINGS.map(|(name, holding)| (name.to_owned(), inventory.bytes_held(config, holding)));
        Self { files: checkpoint.files().iter().cloned().collect(), formats, memory: BTreeMap::from(memory) }
    }
}
