//! Which tokens a step may decide, where an answer follows a rule.

use std::sync::Arc;

use crate::guide::Candidates;

/// The tokens that some canvas positions may become.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    /// The first of the positions.
    start: usize,
    /// `[positions]`: `None` for one that cannot change any more.
    candidates: Vec<Option<Arc<Candidates>>>,
}

impl Allowed {
    /// From position `start` on: what each may become, `None` for one that cannot change any more.
    pub(super) fn new(start: usize, candidates: Vec<Option<Arc<Candidates>>>) -> Self {
        Self { start, candidates }
    }

    /// What a canvas position may become; `None` if nothing is said about it.
    pub fn at(&self, position: usize) -> Option<&Candidates> {
        self.candidates.get(position.checked_sub(self.start)?)?.as_deref()
    }
}
