//! What a step left behind, for those who want to watch an answer evolve.

use std::ops::Range;

use super::{Phase, RowsView, State, StepReport};

/// Most positions that are described of one step: a canvas may have thousands, and every step makes a snapshot.
pub const MOST_WATCHED: usize = 1024;

/// Most candidates per position that are told.
pub const MOST_CANDIDATES: usize = 10;

/// Positions that a step looked at, as it left them. Positions are counted from the beginning of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The step's block, from 0.
    pub block: usize,
    /// The block's positions.
    pub block_range: Range<usize>,
    /// The positions described: from the block's first on, those whose logits the step computed, at most
    /// [`MOST_WATCHED`].
    pub positions: Range<usize>,
    /// `[positions]`
    pub phases: Vec<Phase>,
    /// `[positions]`: the token; of an undecided position the step's guess.
    pub tokens: Vec<u32>,
    /// `[positions]`: the probability with which a position got its token; of an undecided one that of the guess.
    pub confidences: Vec<f32>,
    /// Candidates per position.
    pub top_k: usize,
    /// `[positions * top_k]`: the step's most probable tokens, best first, and their probabilities.
    pub candidates: Vec<(u32, f32)>,
    /// Positions whose soft token the step changed, ascending.
    pub revised: Vec<usize>,
}

impl Snapshot {
    /// Memory that it takes while nobody has read it, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self)
            + size_of_val(&*self.phases)
            + size_of_val(&*self.tokens)
            + size_of_val(&*self.confidences)
            + size_of_val(&*self.candidates)
            + size_of_val(&*self.revised)
    }
}

impl State {
    /// As [`State::advance`], and what came of it.
    pub fn advance_watched(&mut self, rows: RowsView<'_>) -> (StepReport, Snapshot) {
        let (number, block) = (self.block, self.block());
        let soft = block.clone().filter(|position| self.phase(*position) == Phase::Soft);
        let before: Vec<(usize, u32)> = soft.map(|position| (position, self.tokens()[position])).collect();
        let report = self.advance(rows);
        let changed = before.into_iter().filter(|(position, token)| self.tokens()[*position] != *token);
        let in_answer = |position: usize| position - self.prompt_len;
        let revised = changed.map(|(position, _)| in_answer(position)).collect();
        let count = rows.guesses.len().min(MOST_WATCHED);
        let top_k = self.watched_candidates();
        let (mut tokens, mut confidences) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut candidates = Vec::with_capacity(count * top_k);
        for row in 0..count {
            let position = block.start + row;
            let (token, confidence) = match self.canvas.undecided(position) {
                true => rows.guesses[row],
                false => (self.canvas.tokens[position], self.canvas.confidences[position]),
            };
            tokens.push(token);
            confidences.push(confidence);
            candidates.extend_from_slice(&rows.candidates(row)[..top_k]);
        }
        let snapshot = Snapshot {
            block: number,
            block_range: in_answer(block.start)..in_answer(block.end),
            positions: in_answer(block.start)..in_answer(block.start) + count,
            phases: self.canvas.phases[block.start..block.start + count].to_vec(),
            tokens,
            confidences,
            top_k,
            candidates,
            revised,
        };
        (report, snapshot)
    }

    /// Candidates per position of a [`Snapshot`]: as many as a soft token mixes.
    pub(super) fn watched_candidates(&self) -> usize {
        self.params.k_soft.min(MOST_CANDIDATES)
    }
}
