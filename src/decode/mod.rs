//! Decoding: which positions a step feeds in, and what its result changes. Pure: no tensors, no clock, no randomness.
//!
//! [`State`] is one sequence's canvas. [`State::plan`] says what the next step feeds in and needs back,
//! [`State::advance`] applies what came back.
//!
//! The paper's section 4.1 by place (training's unrolled steps, section 4.2, are `train::objective::cts`):
//!
//! | paper | here |
//! |---|---|
//! | equation 2: the k best tokens of a position, renormalised | `evolve::Canvas::remix` |
//! | equations 3 and 4: what a soft mask, and what a soft token feeds in | `evolve::Canvas::pairs` |
//! | equation 5: a finished block becomes hard | `evolve::Canvas::harden`; [`Boundary`] says when |
//! | the four states of a position | [`Phase`] |
//! | which masks become soft tokens | `unmask::select`, by the rule [`Unmask`] |
//! | a soft token is the most confident guess since it became one | `State::evolve` |
//! | blocks, steps and caches | [`State::plan`] |
//!
//! `tests/golden` holds every step equal to the reference implementation's.

mod allowed;
mod evolve;
pub mod options;
mod rows;
mod score;
mod scoring;
mod snapshot;
mod step;
#[cfg(test)]
mod tests;
mod unmask;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use allowed::Allowed;
pub use evolve::Phase;
pub use options::{Boundary, CacheMode, DecodeOptions, DecodeParams, Method, OptionError, Unmask};
pub use rows::{Candidate, RowsView};
pub use score::TokenScore;
pub use scoring::{Scoring, ScoringRule};
pub use snapshot::{MOST_CANDIDATES, MOST_WATCHED, Snapshot};
pub use step::{StepPlan, StepReport, Window};

use crate::guide::Track;
use evolve::Canvas;

/// Candidates per row of an answer on a track: what a step decides first may rule out the best of the others' rows.
const GUIDED_CANDIDATES: usize = 8;

/// Which earlier positions a position sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// The whole canvas.
    #[default]
    Full,
    /// Its own block and all before it; the prompt is one block. The K/V cache is exact then (D2F).
    BlockCausal,
}

/// The canvas of one sequence on its way from masks to tokens.
#[derive(Debug, Clone)]
pub struct State {
    params: DecodeParams,
    attention: Attention,
    prompt_len: usize,
    /// Where the answer ends; a suffix may follow.
    answer_end: usize,
    canvas: Canvas,
    block: usize,
    block_step: usize,
    /// Block-causal: the slot holds everything before the block already.
    stored: bool,
    scores: Option<Scores>,
    /// Whether somebody asks for snapshots.
    watched: bool,
    /// What the answer has to satisfy.
    track: Option<Track>,
}

/// The scores of all positions that have a token.
#[derive(Debug, Clone)]
struct Scores {
    /// Alternatives kept per token.
    alternatives: usize,
    /// [canvas]
    of: Vec<Option<TokenScore>>,
}

impl State {
    /// A prompt (at least one token) and room for `room` answer tokens; without room it is done at once.
    pub fn new(
        prompt: &[u32],
        room: usize,
        params: DecodeParams,
        attention: Attention,
        mask_id: u32,
    ) -> Self {
        let canvas = Canvas::new(prompt, room, mask_id, params.k_soft, params.alpha);
        Self {
            params,
            attention,
            prompt_len: prompt.len(),
            answer_end: canvas.len(),
            canvas,
            block: 0,
            block_step: 0,
            stored: false,
            scores: None,
            watched: false,
            track: None,
        }
    }

    /// With tokens behind the answer: they are hard, and every position sees them (but for a block-causal model). Comes before
    /// the first step and [`Self::with_scores`].
    #[must_use]
    pub fn with_suffix(mut self, suffix: &[u32]) -> Self {
        self.canvas.append(suffix);
        self
    }

    /// Keep the score of every token, with so many alternatives.
    #[must_use]
    pub fn with_scores(self, alternatives: usize) -> Self {
        let of = vec![None; self.canvas.len()];
        Self { scores: Some(Scores { alternatives, of }), ..self }
    }

    /// To be advanced by [`Self::advance_watched`].
    #[must_use]
    pub fn with_watcher(self) -> Self {
        Self { watched: true, ..self }
    }

    /// Keep the answer on a track of the same room and the same blocks: after every step it can be completed.
    #[must_use]
    pub fn with_track(self, track: Option<Track>) -> Self {
        Self { track, ..self }
    }

    /// Number of blocks of the answer.
    pub fn blocks(&self) -> usize {
        (self.answer_end - self.prompt_len).div_ceil(self.params.block_length)
    }

    /// Whether every block is done; no further step may be planned.
    pub fn done(&self) -> bool {
        self.block == self.blocks()
    }

    /// Positions of block `block`; the last one may be shorter than the others.
    fn block_range(&self, block: usize) -> Range<usize> {
        let start = self.prompt_len + block * self.params.block_length;
        start..(start + self.params.block_length).min(self.answer_end)
    }

    /// Positions of the current block.
    pub fn block(&self) -> Range<usize> {
        self.block_range(self.block)
    }

    /// The state of a position.
    pub fn phase(&self, position: usize) -> Phase {
        self.canvas.phases[position]
    }

    /// The current tokens of all positions: the mask while undecided, provisional until a position's block is done.
    pub fn tokens(&self) -> &[u32] {
        &self.canvas.tokens
    }

    /// The positions of the answer that have a token, and their tokens.
    pub fn decided(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let answer = self.prompt_len..self.answer_end;
        answer
            .filter(|position| !self.canvas.undecided(*position))
            .map(|position| (position, self.canvas.tokens[position]))
    }

    /// The scores of decided positions: the step that gave a token its confidence, which for a soft token is the one that
    /// was surest of it. Empty if they are not kept.
    pub fn scores(&self, positions: Range<usize>) -> Vec<TokenScore> {
        self.scores.iter().flat_map(|scores| &scores.of[positions.clone()]).flatten().cloned().collect()
    }

    /// What a position feeds in: (token id, weight) pairs that sum to 1.
    pub fn pairs(&self, position: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.canvas.pairs(position)
    }

    /// Candidates that [`Self::advance`] needs per row.
    pub fn top_k(&self) -> usize {
        let fed_back = if self.params.method == Method::Mask { 1 } else { self.params.k_soft };
        let shown = if self.watched { self.watched_candidates() } else { 0 };
        let kept = self.scores.as_ref().map_or(0, |scores| scores.alternatives);
        let guided = self.track.as_ref().map_or(0, |_| GUIDED_CANDIDATES);
        fed_back.max(kept).max(guided).max(shown)
    }

    /// What the positions of the current block may become, if the answer is kept on a track.
    pub fn allowed(&self) -> Option<Allowed> {
        let track = self.track.as_ref()?;
        let block = self.block();
        let open = |(at, position)| (self.phase(position) != Phase::Decoded).then(|| track.candidates(at));
        Some(Allowed::new(block.start, block.enumerate().map(open).collect()))
    }

    /// The next step. Must not be called when [`Self::done`].
    pub fn plan(&self) -> StepPlan {
        let (Range { start: lo, end: hi }, end) = (self.block(), self.canvas.len());
        let first = self.block_step == 0;
        if self.attention == Attention::BlockCausal {
            let block = Window { positions: lo..hi, visible: hi, targets: lo..hi };
            let Some(stretch) = self.stretch() else {
                return StepPlan { windows: vec![block], refresh: false };
            };
            let previous = Window { positions: stretch, visible: lo, targets: lo..lo };
            return StepPlan { windows: vec![previous, block], refresh: true };
        }
        let positions = match self.params.cache {
            _ if first => 0..end,
            CacheMode::None => 0..end,
            CacheMode::Prefix => lo..end,
            CacheMode::Dual => lo..hi,
        };
        // Soft masks evolve in later blocks too: they are inputs of the next step.
        let evolving = if self.params.method.soft_masks() { positions.end.min(self.answer_end) } else { hi };
        let targets = lo..evolving;
        let refresh = first || self.params.cache == CacheMode::None;
        StepPlan { windows: vec![Window { positions, visible: end, targets }], refresh }
    }

    /// What the next step of a block-causal model must feed in beside the block: the prompt or the block before, which is
    /// now hard, so that its K/V become final. `None`: nothing, the slot holds it.
    pub fn stretch(&self) -> Option<Range<usize>> {
        if self.attention == Attention::Full || self.block_step > 0 || self.stored || self.done() {
            return None;
        }
        let from = if self.block == 0 { 0 } else { self.block_range(self.block - 1).start };
        Some(from..self.block().start)
    }

    /// The K/V of [`Self::stretch`] were written into the slot.
    pub fn store(&mut self) {
        self.stored = true;
    }

    /// Apply a step's result; `rows` are those of the plan's targets, with at least [`Self::top_k`] candidates.
    pub fn advance(&mut self, rows: RowsView<'_>) -> StepReport {
        let block = self.block();
        let (lo, hi) = (block.start, block.end);
        let undecided: Vec<usize> = block.clone().filter(|p| self.canvas.undecided(*p)).collect();
        let confidences: Vec<f32> = undecided.iter().map(|p| rows.guesses[p - lo].1).collect();
        let place = unmask::Place {
            blocks: self.blocks(),
            block: self.block,
            positions: hi - lo,
            step: self.block_step,
        };
        let selected = unmask::select(&confidences, self.params.unmask, place);
        let phase = if self.params.method.soft_tokens() { Phase::Soft } else { Phase::Decoded };
        if let Some(track) = &mut self.track {
            track.begin_step();
        }
        let mut decided = 0;
        for index in selected {
            let (position, row) = (undecided[index], undecided[index] - lo);
            if let Some(chosen) = self.choose(row, rows) {
                self.decide(position, chosen, (rows, row), phase);
                decided += 1;
            }
        }
        let revised = if self.params.method == Method::Mask { 0 } else { self.evolve(rows) };
        let left = undecided.len() - decided;
        self.block_step += 1;
        if left == 0 {
            self.enter_next_block();
        }
        let finished = (left == 0).then_some(block);
        StepReport { decided, revised, undecided: left, finished }
    }

    /// The token of a position of the block: its guess; on a track the guess, or else the best other candidate, with which
    /// the answer can still be completed.
    ///
    /// Whoever is first in a step gets its guess: what it may become was computed from the very tokens that are there, and
    /// guesses are among that. So every step decides a position.
    fn choose(&mut self, row: usize, rows: RowsView<'_>) -> Option<Candidate> {
        let (guess, count, rule) = (rows.guess(row), self.top_k(), self.params.unmask);
        let Some(track) = &mut self.track else { return Some(guess) };
        if track.decide(row, guess.id) {
            return Some(guess);
        }
        // Another sequence of the tick may have asked for more candidates: they are none of this one's.
        let mut others = rows.best(row, count).filter(|other| unmask::takes_another(other.probability, rule));
        others.find(|other| track.decide(row, other.id))
    }

    /// Whether a soft token may become the guess of its row.
    fn may_become(&mut self, row: usize, token: u32) -> bool {
        self.track.as_mut().is_none_or(|track| track.decide(row, token))
    }

    /// Replace soft tokens by more confident guesses and renew the mixtures of every row. Returns the tokens changed.
    fn evolve(&mut self, rows: RowsView<'_>) -> usize {
        let Range { start: lo, end: hi } = self.block();
        let mut revised = 0;
        for (row, guess) in rows.guesses.iter().enumerate() {
            let position = lo + row;
            if self.params.method.soft_masks() || !self.canvas.undecided(position) {
                self.canvas.remix(position, rows.candidates(row));
            }
            let soft = position < hi && self.canvas.phases[position] == Phase::Soft;
            if soft && guess.1 > self.canvas.confidences[position] && self.may_become(row, guess.0) {
                revised += usize::from(guess.0 != self.canvas.tokens[position]);
                self.decide(position, rows.guess(row), (rows, row), Phase::Soft);
            }
        }
        // With a lagged boundary the previous block was soft until this step.
        self.canvas.harden(lo);
        revised
    }

    /// Give a position the token chosen for its row.
    fn decide(
        &mut self,
        position: usize,
        chosen: Candidate,
        (rows, row): (RowsView<'_>, usize),
        phase: Phase,
    ) {
        self.canvas.decide(position, (chosen.id, chosen.probability), phase);
        if let Some(scores) = &mut self.scores {
            scores.of[position] = Some(TokenScore::new(chosen, rows, row, scores.alternatives));
        }
    }

    fn enter_next_block(&mut self) {
        self.block += 1;
        self.block_step = 0;
        if let Some(track) = &mut self.track {
            track.next_block();
        }
        self.stored = false;
        let hard = self.params.boundary == Boundary::Hard || self.attention == Attention::BlockCausal;
        if hard {
            self.canvas.harden(self.block_range(self.block).start.min(self.canvas.len()));
        }
    }
}
