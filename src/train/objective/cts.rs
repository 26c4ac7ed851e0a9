//! Continuous Trajectory Supervision (the paper, section 4.2): K decoding steps are unrolled, each scored on the whole
//! block, each fed the soft tokens of the one before. Stages pass no gradient to each other, so one backward per stage
//! gives the gradient of the mean and needs the memory of one stage.

use anyhow::Result;

use super::Gradients;
use crate::train::candidates::{Candidates, harden};
use crate::train::network::{Input, Network, Weights};
use crate::train::ops::{self, Mixture};

/// Equally long rows with one training block each: left of it ground truth, right of it masks, inside it both.
#[derive(Debug, Clone, PartialEq)]
pub struct CtsBatch {
    /// Input ids of stage 0, row after row.
    pub noisy: Vec<u32>,
    /// Ground truth, row after row.
    pub truth: Vec<u32>,
    /// Positions per row, N.
    pub len: usize,
    /// Prompt length of each row.
    pub prompt_len: Vec<usize>,
    /// First position of each row's block.
    pub start: Vec<usize>,
    /// Last position of each row's block.
    pub end: Vec<usize>,
    /// Positions decided after each stage: per row, per stage, d of them.
    pub unmask: Vec<Vec<Vec<usize>>>,
    /// Mask weights of the inputs of the next stage: per stage, per row.
    pub alphas: Vec<Vec<f64>>,
}

/// What a stage left behind.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Mean cross-entropy over the scored positions of the whole batch (this shard's share of it).
    pub loss: f64,
    /// Token ids after the stage, row after row.
    pub x: Vec<u32>,
    /// Inputs of the next stage.
    pub soft: Mixture,
}

impl CtsBatch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.start.len()
    }

    /// Number of stages, K.
    pub fn stages(&self) -> usize {
        self.alphas.len()
    }

    /// Number of scored positions: all of every block.
    pub fn scored(&self) -> usize {
        (0..self.rows()).map(|row| self.end[row] + 1 - self.start[row]).sum()
    }

    /// The rows `range` as a batch of their own.
    pub fn shard(&self, range: std::ops::Range<usize>) -> Self {
        let ids = range.start * self.len..range.end * self.len;
        Self {
            noisy: self.noisy[ids.clone()].to_vec(),
            truth: self.truth[ids].to_vec(),
            len: self.len,
            prompt_len: self.prompt_len[range.clone()].to_vec(),
            start: self.start[range.clone()].to_vec(),
            end: self.end[range.clone()].to_vec(),
            unmask: self.unmask[range.clone()].to_vec(),
            alphas: self.alphas.iter().map(|stage| stage[range.clone()].to_vec()).collect(),
        }
    }

    /// Run the stages and return them with the gradients of `trainable`; `weights` is what the network computes with.
    /// `scored` is the number of scored positions of the whole batch of which this is a shard.
    ///
    /// # Errors
    /// A forward or backward pass fails.
    pub fn gradients(
        &self,
        network: &Network,
        weights: &Weights,
        trainable: &Weights,
        k_soft: usize,
        scored: usize,
    ) -> Result<(Vec<Stage>, Gradients)> {
        let mut unrolled = Unrolled::new(self, network.config().mask_id, k_soft);
        let share = 1.0 / scored as f64;
        let stages = self.stages() as f64;
        let (mut done, mut gradients): (Vec<Stage>, _) = (Vec::new(), Gradients::new());
        for stage in 0..self.stages() {
            let network = network.pass(&[stage as u64]);
            let input = |tokens| Input { tokens, len: self.len };
            let hidden = match done.last() {
                None => network.hidden(weights, &input(Mixture::hard(&self.noisy)))?,
                Some(before) => network.hidden_detached(weights, &input(before.soft.clone()))?,
            };
            let logits = network.logits(weights, &hidden, &unrolled.rows)?;
            let per_stage: Vec<f32> =
                unrolled.scored.iter().map(|s| if *s { (share / stages) as f32 } else { 0.0 }).collect();
            let loss = ops::cross_entropy(&logits, &unrolled.targets, &per_stage)?;
            super::accumulate(&mut gradients, trainable, &loss.backward()?)?;
            let soft = unrolled.advance(stage, &Candidates::of(&logits, k_soft)?);
            let loss = f64::from(loss.to_scalar::<f32>()?) * stages;
            done.push(Stage { loss, x: unrolled.x.clone(), soft });
        }
        Ok((done, super::complete(gradients, trainable)?))
    }
}

/// The state of the positions between stages.
struct Unrolled<'a> {
    batch: &'a CtsBatch,
    mask_id: u32,
    k_soft: usize,
    x: Vec<u32>,
    best: Vec<f64>,
    /// Positions that need logits: the blocks, and what is right of them (soft from then on).
    rows: Vec<u32>,
    targets: Vec<u32>,
    scored: Vec<bool>,
}

impl<'a> Unrolled<'a> {
    fn new(batch: &'a CtsBatch, mask_id: u32, k_soft: usize) -> Self {
        let n = batch.len;
        let mut state = Self {
            batch,
            mask_id,
            k_soft,
            x: batch.noisy.clone(),
            best: vec![0.0; batch.noisy.len()],
            rows: Vec::new(),
            targets: Vec::new(),
            scored: Vec::new(),
        };
        for row in 0..batch.rows() {
            for at in batch.start[row]..n {
                state.rows.push((row * n + at) as u32);
                state.targets.push(batch.truth[row * n + at]);
                state.scored.push(at <= batch.end[row]);
            }
        }
        state
    }

    /// Decide and replace tokens after a stage; the inputs of the next one. Unlike decoding, the mask token is a
    /// candidate like any other, and a position decided as the mask token stays undecided.
    fn advance(&mut self, stage: usize, found: &Candidates) -> Mixture {
        let (batch, n) = (self.batch, self.batch.len);
        let mut soft = Mixture { ids: Vec::new(), weights: Vec::new(), width: self.k_soft + 1 };
        let mut next = 0; // index into `rows` and the candidates
        for row in 0..batch.rows() {
            let now = &batch.unmask[row][stage];
            for at in 0..n {
                let i = row * n + at;
                let candidate = self.rows.get(next).is_some_and(|r| *r as usize == i).then_some(next);
                next += usize::from(candidate.is_some());
                let Some(c) = candidate else {
                    harden(self.x[i], self.k_soft, &mut soft);
                    continue;
                };
                if now.contains(&at) {
                    self.x[i] = found.guess(c);
                }
                if at < batch.prompt_len[row] {
                    harden(self.x[i], self.k_soft, &mut soft);
                    continue;
                }
                if self.x[i] != self.mask_id && found.confidence(c) > self.best[i] {
                    self.x[i] = found.guess(c);
                    self.best[i] = found.confidence(c);
                }
                let undecided = (self.x[i] == self.mask_id).then_some(batch.alphas[stage][row]);
                found.soften(c, self.x[i], undecided, &mut soft);
            }
        }
        soft
    }
}
