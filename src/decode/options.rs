//! What a caller may say about decoding, how layers of defaults combine, and what comes out: [`DecodeParams`].

use serde::{Deserialize, Serialize};

/// What positions feed in before their block is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Method {
    /// Hard masks: a decided position is its token at once and never changes (LLaDA, Fast-dLLM).
    Mask,
    /// EvoToken without soft tokens (the paper's Figure 5): mask, soft mask, decoded.
    SoftMask,
    /// EvoToken without soft masks (the paper's Figure 5): mask, soft, decoded.
    SoftToken,
    /// Progressive token evolution (the paper, section 4.1): mask, soft mask, soft, decoded.
    Evotoken,
}

impl Method {
    /// The word that requests use for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::SoftMask => "soft_mask",
            Self::SoftToken => "soft_token",
            Self::Evotoken => "evotoken",
        }
    }

    /// Whether undecided positions feed in what they might become.
    pub fn soft_masks(self) -> bool {
        matches!(self, Self::SoftMask | Self::Evotoken)
    }

    /// Whether decided positions stay soft, and may change, until their block is done.
    pub fn soft_tokens(self) -> bool {
        matches!(self, Self::SoftToken | Self::Evotoken)
    }
}

/// Which K/V cache a step reads (Fast-dLLM). Without effect on block-causal models, whose cache is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Every step recomputes the whole canvas.
    None,
    /// Refinements recompute everything from the block on.
    Prefix,
    /// Refinements recompute the block alone.
    Dual,
}

/// When a finished block becomes hard tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// Before the next block's first step: the paper's equation 5, and what training sees.
    Hard,
    /// After the next block's first step: the authors' code.
    Lagged,
}

/// Which undecided positions a step decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unmask {
    /// A total of this many steps over all blocks.
    Steps(usize),
    /// Every position whose confidence is at least this, and always the best one. In 0..=1.
    Threshold(f64),
    /// Fast-dLLM's factor: the largest n with (n + 1)(1 - c_n) below it. Above 0.
    Factor(f64),
}

/// Everything a sequence needs to know about decoding. Built by [`DecodeOptions::resolve`] only from values in range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeParams {
    /// What positions feed in before their block is done.
    pub method: Method,
    /// The selection rule.
    pub unmask: Unmask,
    /// Positions per block, at least 1; the last block of an answer may be shorter.
    pub block_length: usize,
    /// Candidates a soft token mixes, at least 1 and below the vocabulary size.
    pub k_soft: usize,
    /// Weight of the mask embedding in a soft mask, 0 <= alpha < 1 (equation 3).
    pub alpha: f64,
    /// The K/V cache.
    pub cache: CacheMode,
    /// When a finished block becomes hard.
    pub boundary: Boundary,
}

/// A layer of decoding settings, every field optional: a request's `diffusion` object, the server's `[decode]` table,
/// or `diffusion` in a model folder's `generation_config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeOptions {
    /// `mask`, `soft_mask`, `soft_token` or `evotoken`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Total denoising steps of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Confidence threshold, 0..=1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Fast-dLLM's factor, above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// Positions per block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_length: Option<usize>,
    /// Candidates a soft token mixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_soft: Option<usize>,
    /// Weight of the mask embedding in a soft mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// `none`, `prefix` or `dual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheMode>,
    /// `hard` or `lagged`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
}

/// A decoding setting out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OptionError {
    /// The field, as the caller spells it (`"steps"`).
    pub field: &'static str,
    /// What is wrong with it, a lowercase fragment.
    pub message: String,
}

impl OptionError {
    fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

/// Most candidates a soft token may mix. Every position keeps so many pairs, and each of a step's rows looks for so many
/// best tokens: without a bound one request could ask for gigabytes.
pub const MOST_K_SOFT: usize = 256;

impl DecodeOptions {
    /// The settings in force when nobody says anything.
    pub const BUILT_IN: Self = Self {
        method: Some(Method::Evotoken),
        steps: None,
        threshold: Some(0.9),
        factor: None,
        block_length: Some(32),
        k_soft: Some(3),
        alpha: Some(0.7),
        cache: Some(CacheMode::Dual),
        boundary: Some(Boundary::Hard),
    };

    /// These settings, completed by `lower` where they are silent. Naming one of `steps`, `threshold`, `factor`
    /// drops all three of `lower`.
    pub fn or(self, lower: Self) -> Self {
        let rule = if self.rules() > 0 { self } else { lower };
        Self {
            method: self.method.or(lower.method),
            steps: rule.steps,
            threshold: rule.threshold,
            factor: rule.factor,
            block_length: self.block_length.or(lower.block_length),
            k_soft: self.k_soft.or(lower.k_soft),
            alpha: self.alpha.or(lower.alpha),
            cache: self.cache.or(lower.cache),
            boundary: self.boundary.or(lower.boundary),
        }
    }

    /// How many selection rules are named: `steps`, `threshold`, `factor`.
    fn rules(&self) -> usize {
        let named = [self.steps.is_some(), self.threshold.is_some(), self.factor.is_some()];
        named.into_iter().filter(|named| *named).count()
    }

    /// Check every value that is set against its range, whatever the model or the answer's length.
    ///
    /// # Errors
    /// The first setting out of range, or more than one of `steps`, `threshold`, `factor`.
    pub fn check(&self) -> Result<(), OptionError> {
        if self.rules() > 1 {
            let message = "give one of steps, threshold and factor, not several";
            return Err(OptionError::new("steps", message));
        }
        if self.steps == Some(0) {
            return Err(OptionError::new("steps", "must be at least 1"));
        }
        if self.threshold.is_some_and(|t| !(0.0..=1.0).contains(&t)) {
            return Err(OptionError::new("threshold", "must be between 0 and 1"));
        }
        if self.factor.is_some_and(|f| !(f > 0.0 && f.is_finite())) {
            return Err(OptionError::new("factor", "must be a number above 0"));
        }
        if self.block_length == Some(0) {
            return Err(OptionError::new("block_length", "must be at least 1"));
        }
        if self.k_soft.is_some_and(|k| !(1..=MOST_K_SOFT).contains(&k)) {
            return Err(OptionError::new("k_soft", format!("must be between 1 and {MOST_K_SOFT}")));
        }
        if self.alpha.is_some_and(|a| !(0.0..1.0).contains(&a)) {
            return Err(OptionError::new("alpha", "must be at least 0 and below 1"));
        }
        Ok(())
    }

    /// Complete with [`Self::BUILT_IN`] and check against the answer's length (tokens) and the vocabulary size.
    ///
    /// # Errors
    /// The first setting out of range; `steps` below the number of blocks.
    pub fn resolve(self, answer_len: usize, vocab: usize) -> Result<DecodeParams, OptionError> {
        self.check()?;
        let full = self.or(Self::BUILT_IN);
        let silent = "BUILT_IN sets every field but the selection rule";
        let params = DecodeParams {
            method: full.method.expect(silent),
            unmask: match (full.steps, full.threshold, full.factor) {
                (Some(steps), _, _) => Unmask::Steps(steps),
                (_, _, Some(factor)) => Unmask::Factor(factor),
                (_, threshold, _) => Unmask::Threshold(threshold.expect("BUILT_IN sets the threshold")),
            },
            // A longer block is one block; positions are added to it, and must not overflow.
            block_length: full.block_length.expect(silent).min(answer_len.max(1)),
            k_soft: full.k_soft.expect(silent),
            alpha: full.alpha.expect(silent),
            cache: full.cache.expect(silent),
            boundary: full.boundary.expect(silent),
        };
        let blocks = answer_len.div_ceil(params.block_length);
        if let Unmask::Steps(steps) = params.unmask
            && steps < blocks
        {
            let message = format!(
                "{steps} is fewer than the {blocks} blocks, each of which takes a step ({answer_len} tokens in blocks of {})",
                params.block_length
            );
            return Err(OptionError::new("steps", message));
        }
        if params.k_soft >= vocab {
            let message = format!("must be below the vocabulary size {vocab}");
            return Err(OptionError::new("k_soft", message));
        }
        Ok(params)
    }
}
