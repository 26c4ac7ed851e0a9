//! Counter-based randomness: every draw is a function of (seed, what it is for, index), so nothing has to be saved to
//! resume a run, and the order in which rows are prepared does not matter.

use crate::rng::scramble;

/// What a stream of draws is for; two purposes never share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Drawing training problems.
    Problem = 1,
    /// The order of rows in an epoch.
    Order = 2,
    /// Which canvas an update uses.
    Canvas = 3,
    /// Which positions of a batch are masked.
    Noise = 4,
    /// Mask weights of soft inputs.
    Alpha = 5,
    /// Initial weights.
    Weights = 6,
    /// Initial adapter matrices.
    Adapter = 7,
    /// Which inputs of an adapter are dropped.
    Dropout = 8,
    /// Padding of batches as long as their rows.
    Padding = 9,
}

const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of draws (SplitMix64 started at a hash of its key).
#[derive(Debug, Clone)]
pub struct Stream(u64);

impl Stream {
    /// The stream of `seed` for `purpose`, told apart by `index` (update, row, …).
    pub fn new(seed: u64, purpose: Purpose, index: &[u64]) -> Self {
        let start = scramble(seed.wrapping_add(STRIDE)) ^ scramble((purpose as u64).wrapping_mul(STRIDE));
        Self(
            index.iter().fold(start, |key, i| {
                scramble(key.wrapping_add(STRIDE)) ^ scramble(i.wrapping_add(STRIDE << 1))
            }),
        )
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STRIDE);
        scramble(self.0)
    }

    /// Uniform in 0..n; n must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Uniform in lo..=hi.
    pub fn between(&mut self, lo: usize, hi: usize) -> usize {
        lo + self.below(hi - lo + 1)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Shuffle in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
