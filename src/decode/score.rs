//! How sure the model was of a token.

use super::{Candidate, RowsView};

/// A token, its log-probability at the step that gave it its confidence, and what else that step could have written.
/// Natural logarithms, at temperature 1, of the adjusted logits without the mask token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub id: u32,
    /// Its log-probability.
    pub log_probability: f32,
    /// The most probable tokens of the step and their log-probabilities, best first (ties: lower id).
    pub alternatives: Vec<(u32, f32)>,
}

impl TokenScore {
    /// The token chosen for a row, with up to `count` of the row's candidates.
    pub(super) fn new(chosen: Candidate, rows: RowsView<'_>, row: usize, count: usize) -> Self {
        Self {
            id: chosen.id,
            log_probability: chosen.log_probability,
            alternatives: rows.best(row, count).map(|other| (other.id, other.log_probability)).collect(),
        }
    }
}
