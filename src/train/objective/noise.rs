//! Drawing training blocks and masks for Continuous Trajectory Supervision.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::Truth;
use super::cts::CtsBatch;
use crate::train::random::Stream;

/// What happens when the stages would decide more positions than a block has to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortBlock {
    /// The block grows to one position more than the stages decide (the authors' code).
    Grow,
    /// Fewer stages are unrolled: as many as the block can feed, at least one.
    FewerStages,
}

/// How training blocks are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CtsSettings {
    /// Stages unrolled, K.
    pub stages: usize,
    /// Positions decided per stage, d: one of these per batch.
    pub per_stage: Vec<usize>,
    /// Block lengths: one of these per batch, cut to the shortest answer.
    pub block_lengths: Vec<usize>,
    /// Rule for blocks too short for the stages.
    pub short_block: ShortBlock,
    /// A block starts at most this many positions into the answer, if set.
    pub latest_start: Option<usize>,
    /// Blocks start at multiples of their length within the answer, as in decoding.
    pub aligned: bool,
    /// Candidates in a soft token, k.
    pub k_soft: usize,
    /// Mask weights are uniform in [low, high).
    pub alpha: [f64; 2],
}

impl CtsSettings {
    /// Draw one batch, as the authors' code does for [`ShortBlock::Grow`] and blocks that start anywhere.
    ///
    /// # Errors
    /// The rows are too short for this many stages.
    pub fn draw(&self, truth: &Truth, mask_id: u32, stream: &mut Stream) -> Result<CtsBatch> {
        let (rows, n) = (truth.rows(), truth.len);
        let prompt = truth.prompt_len.iter().copied().max().unwrap_or(0);
        let d = self.per_stage[stream.below(self.per_stage.len())];
        let mut length = self.block_lengths[stream.below(self.block_lengths.len())].min(n - prompt);
        let mut stages = self.stages;
        match self.short_block {
            ShortBlock::Grow if stages * d >= length => length = stages * d + 1,
            ShortBlock::FewerStages => stages = stages.min(length / d).max(1),
            ShortBlock::Grow => {}
        }
        if length > n || stages * d > length {
            bail!("rows of {n} tokens are too short for {stages} stages of {d} positions");
        }
        let mut batch = CtsBatch {
            noisy: truth.ids.clone(),
            truth: truth.ids.clone(),
            len: n,
            prompt_len: truth.prompt_len.clone(),
            start: Vec::with_capacity(rows),
            end: Vec::with_capacity(rows),
            unmask: Vec::with_capacity(rows),
            alphas: Vec::with_capacity(stages),
        };
        for row in 0..rows {
            let start = self.start(truth.prompt_len[row], n - length, length, stream);
            let mut order: Vec<usize> = (start..start + length).collect();
            stream.shuffle(&mut order);
            let visible = stream.between(0, length - stages * d);
            let hidden = &order[visible..];
            let masked = hidden.iter().copied().chain(start + length..n);
            masked.for_each(|at| batch.noisy[row * n + at] = mask_id);
            batch.unmask.push(hidden[..stages * d].chunks_exact(d).map(<[usize]>::to_vec).collect());
            batch.start.push(start);
            batch.end.push(start + length - 1);
        }
        let [low, high] = self.alpha;
        for _ in 0..stages {
            batch.alphas.push((0..rows).map(|_| low + (high - low) * stream.unit()).collect());
        }
        Ok(batch)
    }

    fn start(&self, prompt: usize, last: usize, length: usize, stream: &mut Stream) -> usize {
        if prompt >= last {
            return last;
        }
        let last = self.latest_start.map_or(last, |limit| last.min(prompt + limit));
        if self.aligned {
            prompt + stream.between(0, (last - prompt) / length) * length
        } else {
            stream.between(prompt, last)
        }
    }
}
