//! The life of one answer position: `Mask` → `SoftMask` → `Soft` → `Decoded` (the paper, section 4.1), and what it
//! feeds into the network in each state.

/// State of a canvas position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Undecided, never looked at: the mask embedding.
    Mask,
    /// Undecided: top-k mixture with weight 1 - alpha, mask embedding with weight alpha (equation 3).
    SoftMask,
    /// Decided, its block not yet done: top-k mixture alone (equation 4).
    Soft,
    /// Hard (equation 5): its token alone. Prompt positions are decoded from the start.
    Decoded,
}

/// All positions of a canvas: their phases, tokens, and mixtures.
#[derive(Debug, Clone)]
pub(super) struct Canvas {
    /// [canvas]
    pub phases: Vec<Phase>,
    /// [canvas]: the mask while undecided.
    pub tokens: Vec<u32>,
    /// [canvas]: the probability with which a decided position got its token.
    pub confidences: Vec<f32>,
    /// [canvas * k]: (token, weight), the weights of a position sum to 1. Read in phases `SoftMask` and `Soft`.
    mixtures: Vec<(u32, f32)>,
    k: usize,
    alpha: f32,
    mask_id: u32,
}

impl Canvas {
    /// A prompt and `room` masks.
    pub fn new(prompt: &[u32], room: usize, mask_id: u32, k: usize, alpha: f64) -> Self {
        let len = prompt.len() + room;
        let mut tokens = prompt.to_vec();
        tokens.resize(len, mask_id);
        let mut phases = vec![Phase::Decoded; prompt.len()];
        phases.resize(len, Phase::Mask);
        #[expect(clippy::cast_possible_truncation, reason = "a weight within 0..1 needs no f64")]
        let alpha = alpha as f32;
        Self {
            phases,
            tokens,
            confidences: vec![0.0; len],
            mixtures: vec![(0, 0.0); len * k],
            k,
            alpha,
            mask_id,
        }
    }

    /// Put hard tokens behind everything else.
    pub fn append(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        let len = self.tokens.len();
        self.phases.resize(len, Phase::Decoded);
        self.confidences.resize(len, 0.0);
        self.mixtures.resize(len * self.k, (0, 0.0));
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.phases.len()
    }

    /// Whether the position has no token yet.
    pub fn undecided(&self, position: usize) -> bool {
        matches!(self.phases[position], Phase::Mask | Phase::SoftMask)
    }

    /// Remember the `k` best candidates of a position, renormalised (equation 2). A `Mask` becomes a `SoftMask`.
    pub fn remix(&mut self, position: usize, candidates: &[(u32, f32)]) {
        let best = &candidates[..self.k];
        let sum: f32 = best.iter().map(|(_, p)| p).sum();
        let mixture = &mut self.mixtures[position * self.k..(position + 1) * self.k];
        for (slot, (token, p)) in mixture.iter_mut().zip(best) {
            *slot = (*token, p / sum);
        }
        if self.phases[position] == Phase::Mask {
            self.phases[position] = Phase::SoftMask;
        }
    }

    /// Give a position its token.
    pub fn decide(&mut self, position: usize, (token, confidence): (u32, f32), phase: Phase) {
        self.tokens[position] = token;
        self.confidences[position] = confidence;
        self.phases[position] = phase;
    }

    /// Make every position before `end` hard (equation 5).
    pub fn harden(&mut self, end: usize) {
        self.phases[..end].fill(Phase::Decoded);
    }

    /// What a position feeds in: (token, weight) pairs that sum to 1 (equation 3 for a soft mask, 4 for a soft token).
    pub fn pairs(&self, position: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let (mixed, scale, own) = match self.phases[position] {
            Phase::Mask => (false, 0.0, Some((self.mask_id, 1.0))),
            Phase::SoftMask if self.alpha > 0.0 => (true, 1.0 - self.alpha, Some((self.mask_id, self.alpha))),
            Phase::SoftMask | Phase::Soft => (true, 1.0, None),
            Phase::Decoded => (false, 0.0, Some((self.tokens[position], 1.0))),
        };
        let mixture = &self.mixtures[position * self.k..(position + 1) * self.k];
        let mixture = if mixed { mixture } else { &[] };
        mixture.iter().map(move |(token, weight)| (*token, weight * scale)).chain(own)
    }
}
