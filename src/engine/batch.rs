//! The seam between scheduling and tensors: what one tick asks of a model, and what comes back. Host data only.

use std::ops::Range;
use std::sync::Arc;

use super::adjustment::Adjustment;
pub use crate::decode::{Candidate, RowsView};
use crate::decode::{Scoring, State, StepPlan, Window};

/// A piece of K/V memory, held by one sequence. The generation keeps a late result from reaching the next owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// Which slot.
    pub index: u32,
    /// How many owners it had before this one.
    pub generation: u32,
}

/// An adapter in a backend's memory. Never used again, so that whatever an adapter left behind is not met by the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub u64);

/// A finished prefix of a block-causal canvas that is kept for other sequences: the prompt, or the prompt and finished
/// blocks. What is kept under it is what it adds to the prefix before it: one stretch of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixId {
    /// The adapter with which its K/V were computed.
    pub adapter: Option<AdapterId>,
    /// Which of all; 0 is the one without tokens.
    pub number: u64,
}

impl PrefixId {
    /// The one without tokens, which all others of an adapter (or of none) build on; nothing is kept under it.
    pub fn empty(adapter: Option<AdapterId>) -> Self {
        Self { adapter, number: 0 }
    }

    /// Whether it is one without tokens.
    pub fn is_empty(self) -> bool {
        self.number == 0
    }
}

/// Which candidates a draw may take, judged by the soft-max of the adjusted logits at the draw's temperature. They apply
/// in this order, each to what the one before left; the most probable candidate always stays. Of equal logits the
/// lower id goes before. Confidences and mixtures know nothing of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filters {
    /// Those at least this fraction as probable as the most probable one, 0..=1.
    pub min_p: f64,
    /// So many most probable ones, at least 1.
    pub top_k: usize,
    /// The fewest most probable ones whose shares sum up to this, 0..=1.
    pub top_p: f64,
}

impl Filters {
    /// All candidates stay.
    pub const NONE: Self = Self { min_p: 0.0, top_k: usize::MAX, top_p: 1.0 };
}

/// How one step of one sequence chooses its guesses; the same numbers give the same choice in any batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// What is changed about the logits before anything is read from them, the candidates included.
    pub adjustment: Option<Arc<Adjustment>>,
    /// Above 0: guesses are drawn by Gumbel noise of this scale instead of taken as arg-max.
    pub temperature: f32,
    /// Which candidates such a draw may take; without effect at temperature 0.
    pub filters: Filters,
    /// The request's seed.
    pub seed: u64,
    /// Which of the request's choices.
    pub choice: u32,
    /// The sequence's step, from 0.
    pub step: u32,
    /// The guess, whatever the logits say: only its probability is asked for.
    pub given: Option<u32>,
}

impl Sampling {
    /// Ask for the probability of a token, as the model has it.
    pub fn score(token: u32) -> Self {
        let (temperature, filters, given) = (0.0, Filters::NONE, Some(token));
        Self { adjustment: None, temperature, filters, seed: 0, choice: 0, step: 0, given }
    }
}

/// One window of one sequence: its fresh K/V are written into the slot at `window`, then its rows attend to the slot
/// positions `[0, visible)`. There is no attention mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Where K/V are written and read.
    pub slot: SlotId,
    /// The adapter that its rows go through beside the model's own weights.
    pub adapter: Option<AdapterId>,
    /// Canvas positions fed in, one packed row each.
    pub window: Range<usize>,
    /// Slot positions the rows attend to.
    pub visible: usize,
    /// Canvas positions whose logits are needed (*target* positions: a model with shifted logits reads them one row to
    /// the left). Empty, or within the window.
    pub targets: Range<usize>,
    /// `None`: the most probable tokens, as the model has them.
    pub sampling: Option<Sampling>,
}

/// The packed rows of one tick: windows of all scheduled sequences, one after the other.
#[derive(Debug, Clone, Default)]
pub struct StepBatch {
    /// In row order; those of one slot are side by side.
    pub segments: Vec<Segment>,
    /// What the rows feed in, all rows' (token id, weight) pairs; the weights of a row sum to 1.
    pub pairs: Vec<(u32, f32)>,
    /// Row r mixes `pairs[row_ends[r - 1]..row_ends[r]]` (from 0 for the first row).
    pub row_ends: Vec<usize>,
    /// Candidates wanted per needed row, at least 1.
    pub top_k: usize,
}

impl StepBatch {
    /// Number of packed rows.
    pub fn rows(&self) -> usize {
        self.row_ends.len()
    }

    /// Append one row.
    pub fn push_row(&mut self, pairs: impl IntoIterator<Item = (u32, f32)>) {
        self.pairs.extend(pairs);
        self.row_ends.push(self.pairs.len());
    }

    /// Send the segments from number `first` on through an adapter.
    pub fn adapt(&mut self, first: usize, adapter: Option<AdapterId>) {
        self.segments[first..].iter_mut().for_each(|segment| segment.adapter = adapter);
    }

    /// Append the step that `plan` describes: its windows, fed from `state`.
    pub fn push_step(&mut self, state: &State, plan: &StepPlan, slot: SlotId, sampling: Option<Sampling>) {
        for window in &plan.windows {
            let Window { positions, visible, targets } = window.clone();
            for position in positions.clone() {
                self.push_row(state.pairs(position));
            }
            let sampling = sampling.clone();
            let (window, adapter) = (positions, None);
            self.segments.push(Segment { slot, adapter, window, visible, targets, sampling });
        }
        self.top_k = self.top_k.max(state.top_k());
    }

    /// Append the step that `plan` describes: its window of the text that `scoring` scores.
    pub fn push_scoring(&mut self, scoring: &Scoring, plan: &StepPlan, slot: SlotId) {
        for window in &plan.windows {
            let Window { positions, visible, targets } = window.clone();
            for position in positions.clone() {
                self.push_row([scoring.pair(position)]);
            }
            let sampling = Some(Sampling::score(scoring.given()));
            let (window, adapter) = (positions, None);
            self.segments.push(Segment { slot, adapter, window, visible, targets, sampling });
        }
        self.top_k = self.top_k.max(scoring.top_k());
    }

    /// The (token id, weight) pairs of row `row`.
    pub fn row(&self, row: usize) -> &[(u32, f32)] {
        let start = if row == 0 { 0 } else { self.row_ends[row - 1] };
        &self.pairs[start..self.row_ends[row]]
    }

    /// Number of rows whose logits are needed.
    pub fn needed(&self) -> usize {
        self.segments.iter().map(|s| s.targets.len()).sum()
    }
}

/// What the model thinks of each needed row, in segment order, then target order. The mask token is excluded and the
/// logits are adjusted before the soft-max.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepOutput {
    /// Candidates per row: [`StepBatch::top_k`].
    pub top_k: usize,
    /// `[rows]`: the token to write, and its probability at temperature 1.
    pub guesses: Vec<(u32, f32)>,
    /// `[rows * top_k]`: the most probable tokens, best first (ties: lower id), and their probabilities.
    pub candidates: Vec<(u32, f32)>,
    /// `[rows]`: log-probabilities of the guesses.
    pub log_guesses: Vec<f32>,
    /// `[rows * top_k]`: log-probabilities of the candidates.
    pub log_candidates: Vec<f32>,
    /// Rows of which the model made no sense, ascending, and why; their guesses and candidates mean nothing. They fail
    /// their own sequence: attention keeps a row's numbers within its slot.
    pub faults: Vec<(usize, String)>,
}

impl StepOutput {
    /// Append a row: its guess, and its [`Self::top_k`] candidates.
    pub fn push_row<C: Into<Candidate>>(&mut self, guess: C, candidates: impl IntoIterator<Item = C>) {
        let guess = guess.into();
        self.guesses.push((guess.id, guess.probability));
        self.log_guesses.push(guess.log_probability);
        for candidate in candidates.into_iter().map(Into::into) {
            self.candidates.push((candidate.id, candidate.probability));
            self.log_candidates.push(candidate.log_probability);
        }
    }

    /// Append a row that cannot be used, and why.
    pub fn push_fault(&mut self, reason: String) {
        self.faults.push((self.guesses.len(), reason));
        let nothing = Candidate { id: 0, probability: 0.0, log_probability: 0.0 };
        self.push_row(nothing, std::iter::repeat_n(nothing, self.top_k));
    }

    /// Why the first row of `[start, start + len)` that cannot be used cannot be: its number from `start`, and the
    /// reason.
    pub fn fault(&self, start: usize, len: usize) -> Option<(usize, &str)> {
        let first = self.faults.iter().find(|(row, _)| (start..start + len).contains(row));
        first.map(|(row, reason)| (row - start, reason.as_str()))
    }

    /// The rows `[start, start + len)` of the output.
    pub fn rows(&self, start: usize, len: usize) -> RowsView<'_> {
        let (rows, candidates) = (start..start + len, start * self.top_k..(start + len) * self.top_k);
        RowsView {
            top_k: self.top_k,
            guesses: &self.guesses[rows.clone()],
            candidates: &self.candidates[candidates.clone()],
            log_guesses: &self.log_guesses[rows],
            log_candidates: &self.log_candidates[candidates],
        }
    }
}

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Memory for a slot could not be had.
    #[error("no memory for a K/V slot of {bytes} bytes")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A forward pass failed; its sequences are lost, the backend is not.
    #[error("forward pass failed: {0}")]
    Forward(String),
}

/// What the engine needs of a model: slots of K/V memory, and steps.
pub trait Backend {
    /// K/V bytes of one canvas position; a slot needs that times its canvas.
    fn bytes_per_position(&self) -> usize;

    /// Reserve a slot's memory.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`]; nothing is held then.
    fn open_slot(&mut self, slot: SlotId, canvas: usize) -> Result<(), BackendError>;

    /// Give a slot's memory back. Unknown slots are ignored.
    fn close_slot(&mut self, slot: SlotId);

    /// One forward pass over the packed rows.
    ///
    /// # Errors
    /// [`BackendError::Forward`]; the content of the slots in `batch` is undefined then.
    fn step(&mut self, batch: &StepBatch) -> Result<StepOutput, BackendError>;

    /// Bytes that a copy of so many positions of a slot takes; `None`: copies cannot be kept.
    fn kept_bytes(&self, positions: usize) -> Option<usize> {
        let _ = positions;
        None
    }

    /// Keep a copy of what a slot of a block-causal model holds of a stretch of its canvas, under a name that is not in
    /// use. The last step of the slot wrote the stretch, or what follows it.
    ///
    /// # Errors
    /// There is no memory for it, or the slot is not open; nothing is kept then.
    fn keep(&mut self, prefix: PrefixId, slot: SlotId, stretch: Range<usize>) -> Result<(), BackendError> {
        let _ = (prefix, slot, stretch);
        Err(BackendError::Forward("this model keeps no prefixes".to_owned()))
    }

    /// Write a kept stretch into a slot, at its place. The next step is the first one of the block that follows it.
    ///
    /// # Errors
    /// It is not kept, or does not fit; the stretch's positions of the slot are undefined then.
    fn restore(&mut self, prefix: PrefixId, slot: SlotId) -> Result<(), BackendError> {
        let _ = (prefix, slot);
        Err(BackendError::Forward("this model keeps no prefixes".to_owned()))
    }

    /// Give the memory of a kept stretch back. Unknown ones are ignored.
    fn forget(&mut self, prefix: PrefixId) {
        let _ = prefix;
    }

    /// Give the memory of an adapter back. No sequence uses it, and none will. Unknown ones are ignored.
    fn drop_adapter(&mut self, adapter: AdapterId) {
        let _ = adapter;
    }

    /// Layers between which a step can be cut; 1: it cannot be.
    fn layers(&self) -> usize {
        1
    }

    /// These layers of a step of one slot. A step begins with layer 0 and goes on in further calls with the same batch;
    /// [`Self::step`] may be called for other slots in between, but no other step is cut until this one has its last
    /// layer or its slot is closed. `Some` with the last layer: what [`Self::step`] would have returned.
    ///
    /// # Errors
    /// As [`Self::step`]; the step is over then.
    fn step_layers(
        &mut self,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> Result<Option<StepOutput>, BackendError> {
        debug_assert_eq!(layers, 0..1, "there is one layer to be had");
        self.step(batch).map(Some)
    }
}
