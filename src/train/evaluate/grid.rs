//! Ways of decoding to compare: lists of values, and every combination of them.

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::decode::options::{Boundary, CacheMode, Method};
use crate::decode::{DecodeOptions, DecodeParams};
use crate::model::ModelConfig;
use crate::service::GenerationDefaults;

/// One way of decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Room for an answer, in tokens.
    pub max_tokens: usize,
    /// Everything that the method uses, and nothing else.
    pub decode: DecodeOptions,
    /// Noise scale of the guesses, 0 (greedy) to 2.
    pub temperature: f64,
    /// Key of the randomness.
    pub seed: u64,
}

/// Values to combine; a list that is empty leaves it to the model and the built-in defaults.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Grid {
    /// Methods
    #[arg(long, value_delimiter = ',')]
    pub method: Vec<Method>,
    /// Total denoising steps of an answer
    #[arg(long, value_delimiter = ',')]
    pub steps: Vec<usize>,
    /// Confidence thresholds; rows of their own beside those of --steps and --factor
    #[arg(long, value_delimiter = ',')]
    pub threshold: Vec<f64>,
    /// Fast-dLLM's factors
    #[arg(long, value_delimiter = ',')]
    pub factor: Vec<f64>,
    /// Positions per block
    #[arg(long, value_delimiter = ',')]
    pub block_length: Vec<usize>,
    /// K/V caches
    #[arg(long, value_delimiter = ',')]
    pub cache: Vec<CacheMode>,
    /// Weights of the mask embedding in a soft mask (EvoToken)
    #[arg(long, value_delimiter = ',')]
    pub alpha: Vec<f64>,
    /// Candidates that a soft token mixes (EvoToken)
    #[arg(long, value_delimiter = ',')]
    pub k_soft: Vec<usize>,
    /// When a finished block becomes hard (EvoToken)
    #[arg(long, value_delimiter = ',')]
    pub boundary: Vec<Boundary>,
    /// Room for an answer, in tokens
    #[arg(long, value_delimiter = ',')]
    pub max_tokens: Vec<usize>,
    /// Noise scale of the guesses, 0 (greedy) to 2
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Key of the randomness at temperatures above 0
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

impl Grid {
    /// Every combination, each once: what a method does not use makes no difference. `usual_length` is the room for an
    /// answer if neither the grid nor the model names one.
    ///
    /// # Errors
    /// Names the first combination that is out of range for the model.
    pub fn settings(
        &self,
        defaults: &GenerationDefaults,
        model: &ModelConfig,
        usual_length: usize,
    ) -> Result<Vec<Setting>> {
        ensure!((0.0..=2.0).contains(&self.temperature), "temperature: must be between 0 and 2");
        let usual = [defaults.max_new_tokens.unwrap_or(usual_length)];
        let lengths = if self.max_tokens.is_empty() { &usual[..] } else { &self.max_tokens };
        let mut settings: Vec<Setting> = Vec::new();
        for max_tokens in lengths {
            for options in self.options() {
                let decode = used(options.or(defaults.decode).or(DecodeOptions::BUILT_IN));
                let setting = Setting {
                    max_tokens: *max_tokens,
                    decode,
                    temperature: self.temperature,
                    seed: self.seed,
                };
                setting.resolve(model).with_context(|| setting.describe())?;
                if !settings.contains(&setting) {
                    settings.push(setting);
                }
            }
        }
        Ok(settings)
    }

    fn options(&self) -> Vec<DecodeOptions> {
        let silent = DecodeOptions::default();
        let mut rules = Vec::new();
        rules.extend(self.steps.iter().map(|steps| DecodeOptions { steps: Some(*steps), ..silent }));
        rules.extend(self.threshold.iter().map(|t| DecodeOptions { threshold: Some(*t), ..silent }));
        rules.extend(self.factor.iter().map(|f| DecodeOptions { factor: Some(*f), ..silent }));
        let all = vec![silent];
        let all = spread(all, &self.block_length, |o, v| o.block_length = Some(v));
        let all = spread(all, &self.cache, |o, v| o.cache = Some(v));
        let all = spread(all, &self.method, |o, v| o.method = Some(v));
        let all = spread(all, &self.boundary, |o, v| o.boundary = Some(v));
        let all = spread(all, &self.k_soft, |o, v| o.k_soft = Some(v));
        let all = spread(all, &self.alpha, |o, v| o.alpha = Some(v));
        spread(all, &rules, |o, v| *o = o.or(v))
    }
}

/// Every combination of `all` with one of `values`.
fn spread<T: Copy>(
    all: Vec<DecodeOptions>,
    values: &[T],
    set: impl Fn(&mut DecodeOptions, T),
) -> Vec<DecodeOptions> {
    if values.is_empty() {
        return all;
    }
    let mut combined = Vec::with_capacity(all.len() * values.len());
    for options in all {
        for value in values {
            let mut options = options;
            set(&mut options, *value);
            combined.push(options);
        }
    }
    combined
}

/// Options without those that the method does not use.
pub(super) fn used(options: DecodeOptions) -> DecodeOptions {
    match options.method {
        Some(Method::Mask) => DecodeOptions { k_soft: None, alpha: None, boundary: None, ..options },
        Some(Method::SoftMask) => DecodeOptions { boundary: None, ..options },
        Some(Method::SoftToken) => DecodeOptions { alpha: None, ..options },
        _ => options,
    }
}

impl Setting {
    /// The decoder's parameters.
    ///
    /// # Errors
    /// A value is out of range for the model or the answer's length.
    pub fn resolve(&self, model: &ModelConfig) -> Result<DecodeParams> {
        self.decode.resolve(self.max_tokens, model.vocab).map_err(|e| anyhow::anyhow!("{}: {e}", e.field))
    }

    /// The setting in words, for tables and messages.
    pub fn describe(&self) -> String {
        let mut parts = self.method();
        parts.splice(1..1, self.budget());
        if self.temperature > 0.0 {
            parts.push(format!("seed {}", self.seed));
        }
        parts.join(", ")
    }

    /// How tokens are fed back, in words: the method first, then what is its own.
    pub fn method(&self) -> Vec<String> {
        let d = &self.decode;
        let mut parts = vec![d.method.iter().map(name).collect()];
        parts.extend(d.alpha.map(|alpha| format!("alpha {alpha}")));
        parts.extend(d.k_soft.map(|k| format!("k {k}")));
        parts.extend(d.boundary.iter().map(|boundary| format!("boundary {}", name(boundary))));
        parts
    }

    /// Everything else but the seed, in words: what methods are compared at. The selection rule comes first.
    pub fn budget(&self) -> Vec<String> {
        let d = &self.decode;
        let mut parts = Vec::new();
        parts.extend(d.steps.map(|steps| format!("{steps} steps")));
        parts.extend(d.threshold.map(|threshold| format!("threshold {threshold}")));
        parts.extend(d.factor.map(|factor| format!("factor {factor}")));
        parts.push(format!("{} tokens", self.max_tokens));
        parts.extend(d.block_length.map(|length| format!("block {length}")));
        parts.extend(d.cache.iter().map(|cache| format!("cache {}", name(cache))));
        if self.temperature > 0.0 {
            parts.push(format!("temperature {}", self.temperature));
        }
        parts
    }
}

/// A value as the command line spells it.
pub fn name<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}
