//! What a step feeds in and needs back, and what it changed.

use std::ops::Range;

/// One window of a step: fed-in positions, and how many slot positions they attend to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Canvas positions.
    pub positions: Range<usize>,
    /// Attended: slot positions `[0, visible)`.
    pub visible: usize,
    /// Positions whose logits are needed; empty or within `positions`.
    pub targets: Range<usize>,
}

/// What the next step feeds in and needs back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    /// One window, or two (a block-causal model appends the finished block before it starts the next).
    pub windows: Vec<Window>,
    /// Whether the step recomputes the cache (first step of a block, or no cache).
    pub refresh: bool,
}

/// What a step changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepReport {
    /// Positions that got their token in this step.
    pub decided: usize,
    /// Soft positions whose token changed.
    pub revised: usize,
    /// Positions of the block that have no token yet.
    pub undecided: usize,
    /// The block's positions, if this step finished it; their tokens can no longer change.
    pub finished: Option<Range<usize>>,
}

impl StepPlan {
    /// What a block-causal model's step makes final beside the block that it denoises: [`super::State::stretch`].
    pub fn stretch(&self) -> Option<Range<usize>> {
        match self.windows.as_slice() {
            [stretch, _] => Some(stretch.positions.clone()),
            _ => None,
        }
    }

    /// Rows the step feeds in.
    pub fn rows(&self) -> usize {
        self.windows.iter().map(|w| w.positions.len()).sum()
    }

    /// Rows the step needs logits of.
    pub fn needed(&self) -> usize {
        self.windows.iter().map(|w| w.targets.len()).sum()
    }
}
