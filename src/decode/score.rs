//! How sure the model was of a token.

use crate::engine::batch::RowsView;

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
    /// The guess of a row, with up to `count` of its candidates.
    pub(super) fn of_guess(rows: RowsView<'_>, row: usize, count: usize) -> Self {
        let candidates = std::iter::zip(rows.candidates(row), rows.log_candidates(row)).take(count);
        Self {
            id: rows.guesses[row].0,
            log_probability: rows.log_guesses[row],
            alternatives: candidates.map(|((id, _), log)| (*id, *log)).collect(),
        }
    }
}
