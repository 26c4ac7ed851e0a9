//! LLaDA's loss: answer tokens are masked with probability p, and the cross-entropy on the masked ones is divided by p.

use anyhow::Result;
use candle_core::Tensor;

use super::{Gradients, Truth};
use crate::train::network::{Input, Network, Weights};
use crate::train::ops::{self, Mixture};
use crate::train::random::Stream;

/// How pretraining masks a row.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskedSettings {
    /// Share of rows masked as block-wise decoding sees them: a block at rate p, all of the answer right of it.
    pub block_share: f64,
    /// Positions of such a block.
    pub block_length: usize,
    /// Such a block starts below this position of the answer (later ones hold only padding).
    pub block_start_below: usize,
}

/// A batch with its masks drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedBatch {
    /// Input ids, masks included.
    noisy: Vec<u32>,
    /// Masked positions (indices into `noisy`), their ground truth and weight.
    positions: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    len: usize,
}

impl MaskedBatch {
    /// Draw masks for `truth`. Masking rates are stratified over the batch: row i of n gets a t in
    /// [i/n, (i+1)/n) shifted by one common draw; p = (1 - 1e-3) t + 1e-3.
    ///
    /// Everything behind a prompt is answer, what fills a row up too. The weight of a position is 1 / (p * answer
    /// positions of the batch), and the loss the weighted sum: every position counts alike, as in the loss of
    /// Continuous Trajectory Supervision, however long its row's answer is.
    pub fn draw(truth: &Truth, mask_id: u32, settings: &MaskedSettings, stream: &mut Stream) -> Self {
        let rows = truth.rows();
        let mut batch = Self {
            noisy: truth.ids.clone(),
            positions: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
            len: truth.len,
        };
        let shift = stream.unit();
        let mut strata: Vec<usize> = (0..rows).collect();
        stream.shuffle(&mut strata);
        let share = 1.0 / truth.answer_positions() as f64;
        for (row, stratum) in strata.into_iter().enumerate() {
            let t = ((stratum as f64 + shift) / rows as f64).fract();
            let p = (1.0 - 1e-3) * t + 1e-3;
            let prompt = truth.prompt_len[row];
            let answer = truth.len - prompt;
            let mut block = 0..answer;
            if stream.unit() < settings.block_share {
                let blocks = settings.block_start_below.min(answer).div_ceil(settings.block_length);
                let start = stream.below(blocks) * settings.block_length;
                block = start..(start + settings.block_length).min(answer);
            }
            for at in block.start..answer {
                let rate = if at < block.end { p } else { 1.0 };
                if stream.unit() < rate {
                    batch.mask(row * truth.len + prompt + at, mask_id, share / rate);
                }
            }
        }
        batch
    }

    fn mask(&mut self, position: usize, mask_id: u32, weight: f64) {
        self.positions.push(position as u32);
        self.targets.push(self.noisy[position]);
        self.weights.push(weight as f32);
        self.noisy[position] = mask_id;
    }

    /// The rows `range` as a batch of their own, weights unchanged: the losses of shards add up to the whole's.
    pub fn shard(&self, range: std::ops::Range<usize>) -> Self {
        let (start, stop) = (range.start * self.len, range.end * self.len);
        let inside = |i: &usize| (start..stop).contains(&(self.positions[*i] as usize));
        let picked: Vec<usize> = (0..self.positions.len()).filter(inside).collect();
        Self {
            noisy: self.noisy[start..stop].to_vec(),
            positions: picked.iter().map(|i| self.positions[*i] - start as u32).collect(),
            targets: picked.iter().map(|i| self.targets[*i]).collect(),
            weights: picked.iter().map(|i| self.weights[*i]).collect(),
            len: self.len,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.noisy.len() / self.len
    }

    /// Loss and gradients of `trainable`; `weights` is what the network computes with and may depend on it.
    ///
    /// # Errors
    /// The forward or backward pass fails.
    pub fn gradients(
        &self,
        network: &Network,
        weights: &Weights,
        trainable: &Weights,
    ) -> Result<(f64, Gradients)> {
        if self.positions.is_empty() {
            // A few short rows at a low rate may get no mask at all.
            let zero = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.zeros_like()?));
            return Ok((0.0, trainable.iter().map(zero).collect::<Result<_>>()?));
        }
        let input = Input { tokens: Mixture::hard(&self.noisy), len: self.len };
        let hidden = network.hidden(weights, &input)?;
        let logits = network.logits(weights, &hidden, &self.positions)?;
        let loss = ops::cross_entropy(&logits, &self.targets, &self.weights)?;
        let mut gradients = Gradients::new();
        super::accumulate(&mut gradients, trainable, &loss.backward()?)?;
        Ok((f64::from(loss.to_scalar::<f32>()?), super::complete(gradients, trainable)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::random::Purpose;

    #[test]
    fn in_ragged_rows_prompts_are_never_masked_and_answer_positions_count_alike() {
        let prompt_len = vec![2, 7, 4];
        let truth = Truth { ids: (10..40).collect(), len: 10, prompt_len: prompt_len.clone() };
        assert_eq!(truth.answer_positions(), 17);
        let settings = MaskedSettings { block_share: 0.0, block_length: 3, block_start_below: 10 };
        let (mut sums, draws) = ([0.0; 30], 6000);
        for seed in 0..draws {
            let mut stream = Stream::new(seed, Purpose::Noise, &[]);
            let batch = MaskedBatch::draw(&truth, 1, &settings, &mut stream);
            for (position, weight) in batch.positions.iter().zip(&batch.weights) {
                sums[*position as usize] += f64::from(*weight) / draws as f64;
            }
        }
        for (position, sum) in sums.iter().enumerate() {
            if position % 10 < prompt_len[position / 10] {
                assert_eq!(*sum, 0.0, "position {position} is of a prompt");
            } else {
                assert!((0.8..1.2).contains(&(sum * 17.0)), "position {position} has weight {sum}");
            }
        }
    }
}
