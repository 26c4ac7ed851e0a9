//! The recipe of a run: a TOML file.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::lora::LoraSettings;
use super::objective::masked::MaskedSettings;
use super::objective::noise::CtsSettings;
use super::optimizer::{AdamSettings, Schedule};

/// Everything that decides what a run computes, but for its data and starting weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Key of all randomness.
    pub seed: u64,
    /// Optimizer updates.
    pub updates: usize,
    /// Worker threads; the result does not depend on them.
    pub threads: usize,
    /// Rows worked on at a time; a batch is cut into shards of at most this many.
    pub shard_rows: usize,
    /// Updates between checkpoints.
    pub checkpoint_every: usize,
    /// Updates between development scores; 0 for none.
    pub evaluate_every: usize,
    /// Sizes of the network; only for training from scratch.
    pub model: Option<ModelSettings>,
    /// Canvases, one of which is drawn per update.
    pub canvases: Vec<Canvas>,
    /// Batches whose gradients are averaged for one update.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Adapters to train; without them all weights train.
    pub lora: Option<LoraSettings>,
    /// What is minimised.
    pub objective: Objective,
    /// Optimizer.
    pub adam: AdamSettings,
    /// Learning rate over the run.
    pub schedule: Schedule,
    /// What is written to `generation_config.json`.
    pub generation: Generation,
}

/// Sizes of a network trained from scratch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Width of the residual stream.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the SwiGLU part.
    pub mlp: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Longest canvas, prompt included.
    pub max_positions: usize,
}

/// A length of the answer canvas and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canvas {
    /// Answer tokens behind the longest prompt of the batch; absent: the batch is as long as its longest row, padded.
    pub length: Option<usize>,
    /// Rows in a batch of this length.
    pub rows: usize,
    /// How often it is drawn, relative to the others.
    pub weight: f64,
}

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Objective {
    /// LLaDA's masked-diffusion loss.
    Masked(MaskedSettings),
    /// Continuous Trajectory Supervision.
    Cts(CtsSettings),
}

/// Decoding defaults that a trained model carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Tokens of an answer when a request does not say.
    pub max_new_tokens: usize,
    /// Decoding options.
    pub diffusion: crate::decode::options::DecodeOptions,
}

fn one() -> usize {
    1
}

impl Settings {
    /// Read a recipe.
    ///
    /// # Errors
    /// Names the file and the key that is unknown, missing or out of range.
    pub fn read(path: &Path) -> Result<Self> {
        let place = || format!("settings {}", path.display());
        let text = std::fs::read_to_string(path).with_context(place)?;
        Self::parse(&text).with_context(place)
    }

    /// Parse a recipe.
    ///
    /// # Errors
    /// Names the key that is unknown, missing or out of range.
    pub fn parse(text: &str) -> Result<Self> {
        let source = ::config::File::from_str(text, ::config::FileFormat::Toml);
        let settings: Self = ::config::Config::builder().add_source(source).build()?.try_deserialize()?;
        settings.check()?;
        Ok(settings)
    }

    /// # Errors
    /// Names the setting that is out of range.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("updates", self.updates),
            ("threads", self.threads),
            ("shard_rows", self.shard_rows),
            ("checkpoint_every", self.checkpoint_every),
            ("accumulation", self.accumulation),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            bail!("{name} must be at least 1");
        }
        let usable = |c: &Canvas| c.length != Some(0) && c.rows > 0 && c.weight > 0.0 && c.weight.is_finite();
        if self.canvases.is_empty() || !self.canvases.iter().all(usable) {
            bail!("canvases: at least one, each with length, rows and weight above 0");
        }
        self.lora.as_ref().map_or(Ok(()), LoraSettings::check)?;
        match &self.objective {
            Objective::Masked(m) if m.block_length == 0 || m.block_start_below == 0 => {
                bail!("objective: block_length and block_start_below must be at least 1")
            }
            Objective::Cts(c) => {
                let lists = [&c.per_stage, &c.block_lengths];
                if c.stages == 0 || c.k_soft == 0 || lists.iter().any(|l| l.is_empty() || l.contains(&0)) {
                    bail!("objective: stages, k_soft, per_stage and block_lengths must be at least 1");
                }
                if !(0.0 <= c.alpha[0] && c.alpha[0] <= c.alpha[1] && c.alpha[1] <= 1.0) {
                    bail!("objective: alpha must be two rising numbers between 0 and 1");
                }
            }
            Objective::Masked(_) => {}
        }
        Ok(self.generation.diffusion.check()?)
    }
}
