//! Scoring a given text: how probable the model finds each token.

use super::score::TokenScore;
use super::{StepPlan, Window};
use crate::engine::batch::RowsView;

/// The chain rule, left to right: pass i asks for token i of a canvas that holds the tokens before it, and masks from it
/// on. One pass per token but the first, which nothing goes before.
#[derive(Debug, Clone)]
pub struct Scoring {
    tokens: Vec<u32>,
    mask_id: u32,
    alternatives: usize,
    scores: Vec<TokenScore>,
}

impl Scoring {
    /// A text of at least one token; so many alternatives are kept per token.
    pub fn new(tokens: &[u32], mask_id: u32, alternatives: usize) -> Self {
        Self { tokens: tokens.to_vec(), mask_id, alternatives, scores: Vec::with_capacity(tokens.len()) }
    }

    /// The token that the next step asks for.
    fn next(&self) -> usize {
        self.scores.len() + 1
    }

    /// Whether all tokens are scored; no further step may be planned.
    pub fn done(&self) -> bool {
        self.next() == self.tokens.len()
    }

    /// The next step: the whole text, of which one row is needed. Must not be called when [`Self::done`].
    pub fn plan(&self) -> StepPlan {
        let all = self.tokens.len();
        let window = Window { positions: 0..all, visible: all, targets: self.next()..self.next() + 1 };
        StepPlan { windows: vec![window], refresh: true }
    }

    /// The token whose probability the next step asks for.
    pub fn given(&self) -> u32 {
        self.tokens[self.next()]
    }

    /// What a position feeds in: a (token id, weight) pair.
    pub fn pair(&self, position: usize) -> (u32, f32) {
        (if position < self.next() { self.tokens[position] } else { self.mask_id }, 1.0)
    }

    /// Candidates that [`Self::advance`] needs per row, at least 1.
    pub fn top_k(&self) -> usize {
        self.alternatives.max(1)
    }

    /// Apply a step's result: the one row of the plan's target, whose guess is [`Self::given`].
    pub fn advance(&mut self, rows: RowsView<'_>) {
        self.scores.push(TokenScore::new(rows.guess(0), rows, 0, self.alternatives));
    }

    /// The scores of all tokens but the first.
    pub fn into_scores(self) -> Vec<TokenScore> {
        self.scores
    }
}
