//! Scoring a given text: how probable the model finds each token.

use serde::Deserialize;

use super::score::TokenScore;
use super::{RowsView, StepPlan, Window};

/// What a token is scored behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoringRule {
    /// The chain rule, left to right: the tokens before it, and masks from it on. Nothing goes before the first token, which
    /// has no score.
    #[default]
    Chain,
    /// Pseudo-likelihood: all other tokens, and a mask in its own place. Every token has a score.
    Pseudo,
}

/// Asks for the tokens of a text one by one, a pass for each that has a score.
#[derive(Debug, Clone)]
pub struct Scoring {
    rule: ScoringRule,
    tokens: Vec<u32>,
    mask_id: u32,
    alternatives: usize,
    scores: Vec<TokenScore>,
}

impl Scoring {
    /// A text of at least one token; so many alternatives are kept per token.
    pub fn new(rule: ScoringRule, tokens: &[u32], mask_id: u32, alternatives: usize) -> Self {
        let scores = Vec::with_capacity(tokens.len());
        Self { rule, tokens: tokens.to_vec(), mask_id, alternatives, scores }
    }

    /// The token that the next step asks for.
    fn next(&self) -> usize {
        let first = match self.rule {
            ScoringRule::Chain => 1,
            ScoringRule::Pseudo => 0,
        };
        first + self.scores.len()
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
        let visible = match self.rule {
            ScoringRule::Chain => position < self.next(),
            ScoringRule::Pseudo => position != self.next(),
        };
        (if visible { self.tokens[position] } else { self.mask_id }, 1.0)
    }

    /// Candidates that [`Self::advance`] needs per row, at least 1.
    pub fn top_k(&self) -> usize {
        self.alternatives.max(1)
    }

    /// Apply a step's result: the one row of the plan's target, whose guess is [`Self::given`].
    pub fn advance(&mut self, rows: RowsView<'_>) {
        self.scores.push(TokenScore::new(rows.guess(0), rows, 0, self.alternatives));
    }

    /// The scores of all tokens that have one.
    pub fn into_scores(self) -> Vec<TokenScore> {
        self.scores
    }
}
