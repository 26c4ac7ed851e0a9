//! What a position's logits say, on the host: the most likely tokens and their probabilities.

use anyhow::Result;
use candle_core::Tensor;

use super::ops;

/// The k most likely tokens of each of some positions, most likely first; equal logits: lower id first.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// `[positions, k]`.
    pub ids: Vec<u32>,
    /// Probabilities, `[positions, k]`.
    pub probs: Vec<f64>,
    /// Candidates per position.
    pub k: usize,
}

impl Candidates {
    /// From logits `[positions, V]`.
    ///
    /// # Errors
    /// The logits cannot be read.
    pub fn of(logits: &Tensor, k: usize) -> Result<Self> {
        let (positions, vocab) = logits.dims2()?;
        let mut found =
            Self { ids: Vec::with_capacity(positions * k), probs: Vec::with_capacity(positions * k), k };
        ops::read(&logits.detach(), |all| all.chunks_exact(vocab).for_each(|row| found.push(row)))?;
        Ok(found)
    }

    fn push(&mut self, logits: &[f32]) {
        let first = self.ids.len();
        for (id, logit) in logits.iter().enumerate() {
            let held = self.ids.len() - first;
            if held == self.k && *logit <= logits[self.ids[first + held - 1] as usize] {
                continue;
            }
            let above = (0..held).take_while(|i| logits[self.ids[first + i] as usize] >= *logit).count();
            self.ids.insert(first + above, id as u32);
            self.ids.truncate(first + self.k);
        }
        let top = logits[self.ids[first] as usize];
        let sum: f64 = logits.iter().map(|x| f64::from(ops::exp(x - top))).sum();
        let probs = self.ids[first..].iter().map(|id| f64::from(logits[*id as usize] - top).exp() / sum);
        self.probs.extend(probs);
    }

    /// The most likely token of a position.
    pub fn guess(&self, position: usize) -> u32 {
        self.ids[position * self.k]
    }

    /// Its probability.
    pub fn confidence(&self, position: usize) -> f64 {
        self.probs[position * self.k]
    }

    /// The soft token of a position (the paper's equations 2 and 3): its candidates, renormalised, and `own` with
    /// weight `alpha` if the position is undecided, 0 if it is decided. Pushes k + 1 pairs.
    pub fn soften(&self, position: usize, own: u32, undecided: Option<f64>, to: &mut ops::Mixture) {
        let range = position * self.k..(position + 1) * self.k;
        let share: f64 = self.probs[range.clone()].iter().sum();
        let alpha = undecided.unwrap_or(0.0);
        to.ids.extend(&self.ids[range.clone()]);
        to.weights.extend(self.probs[range].iter().map(|p| (p / share * (1.0 - alpha)) as f32));
        to.ids.push(own);
        to.weights.push(alpha as f32);
    }
}

/// Push `own` as a hard token in a mixture of `k` + 1 pairs.
pub fn harden(own: u32, k: usize, to: &mut ops::Mixture) {
    to.ids.extend(std::iter::repeat_n(own, k + 1));
    to.weights.extend(std::iter::repeat_n(0.0, k));
    to.weights.push(1.0);
}
