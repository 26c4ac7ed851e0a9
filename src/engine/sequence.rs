//! One running sequence: its slot, its canvas, and the reader it reports to.

use std::sync::Arc;
use std::time::Instant;

use super::ModelInfo;
use super::adjustment::Adjustment;
use super::batch::{RowsView, Sampling, StepBatch};
use super::event::{BlockEvent, FinishReason, Progress, SequenceError};
use super::reader::Writer;
use super::slots::SlotLease;
use crate::decode::{State, StepPlan, TokenScore};
use crate::service::request::GenerateRequest;
use crate::telemetry::metrics::Outcome;

/// A request on its way into a slot, and the way back to its reader.
#[derive(Debug)]
pub(super) struct Ticket {
    pub request: GenerateRequest,
    pub events: Writer,
    pub queued_at: Instant,
    pub deadline: Option<Instant>,
}

impl Ticket {
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    pub fn cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// How a sequence counts whose reader left.
    pub fn outcome_of_leaving(&self) -> Outcome {
        if self.events.reader_is_content() { Outcome::Stop } else { Outcome::Cancelled }
    }

    /// The last event of a sequence that goes wrong. A reader that is gone or does not read loses it, as it must.
    pub fn fail(&self, error: SequenceError) {
        let _ = self.events.try_send(BlockEvent::Failed(error));
    }
}

/// A finished block.
#[derive(Debug)]
pub(super) struct Block {
    /// Its tokens before end-of-text.
    ids: Vec<u32>,
    /// Their scores and that of end-of-text, if asked for.
    scores: Vec<TokenScore>,
    /// Why it is the last, if it is.
    last: Option<FinishReason>,
}

/// A sequence in a slot. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Sequence {
    pub ticket: Ticket,
    pub progress: Progress,
    /// The tick of the last step.
    pub last_tick: u64,
    state: State,
    slot: SlotLease,
}

impl Sequence {
    pub fn new(ticket: Ticket, slot: SlotLease, model: &ModelInfo, tick: u64) -> Self {
        let request = &ticket.request;
        let state = State::new(
            request.prompt(),
            request.max_tokens(),
            *request.decode(),
            model.attention,
            model.mask_id,
        );
        let state = match request.sampling().logprobs {
            Some(alternatives) => state.with_scores(alternatives),
            None => state,
        };
        let progress = Progress { seed: request.seed(), ..Progress::default() };
        Self { ticket, progress, last_tick: tick, state, slot }
    }

    pub fn plan(&self) -> StepPlan {
        self.state.plan()
    }

    /// Append the step of `plan` to the tick's rows.
    pub fn pack(&self, plan: &StepPlan, batch: &mut StepBatch) {
        let request = &self.ticket.request;
        let adjustment = Adjustment::new(request.sampling(), request.prompt(), &self.state).map(Arc::new);
        let asked = request.temperature() > 0.0 || adjustment.is_some();
        let sampling = asked.then_some(Sampling {
            adjustment,
            temperature: request.temperature(),
            filters: request.sampling().filters,
            seed: request.seed(),
            choice: request.choice(),
            step: u32::try_from(self.progress.nfe).unwrap_or(u32::MAX),
        });
        batch.push_step(&self.state, plan, self.slot.id(), sampling);
    }

    /// Apply a step's result. `Some` when it finished a block.
    pub fn apply(&mut self, rows: RowsView<'_>, eos_ids: &[u32]) -> Option<Block> {
        let report = self.state.advance(rows);
        self.progress.nfe += 1;
        self.progress.revisions += report.revised;
        let positions = report.finished?;
        let block = &self.state.tokens()[positions.clone()];
        let end = block.iter().position(|id| eos_ids.contains(id));
        let ids = block[..end.unwrap_or(block.len())].to_vec();
        self.progress.blocks += 1;
        // End-of-text counts as one token.
        let counted = ids.len() + usize::from(end.is_some());
        let scores = self.state.scores(positions.start..positions.start + counted);
        self.progress.tokens += counted;
        let last = match end {
            Some(_) => Some(FinishReason::Stop),
            None => self.state.done().then_some(FinishReason::Length),
        };
        Some(Block { ids, scores, last })
    }

    /// How the sequence is over with this block, if it is. A reader that has no room for the block, or left, is given
    /// up.
    pub fn outcome(&self, block: &Block) -> Option<Outcome> {
        if !self.ticket.events.has_room(1 + usize::from(block.last.is_some())) {
            return Some(self.ticket.outcome_of_leaving());
        }
        block.last.map(|reason| match reason {
            FinishReason::Stop => Outcome::Stop,
            FinishReason::Length => Outcome::Length,
        })
    }

    /// Tell the reader of a finished block. One that leaves at this moment is noticed by the next reap.
    pub fn tell(&self, block: Block) {
        let (events, progress) = (&self.ticket.events, self.progress);
        let sent = events.try_send(BlockEvent::Block { ids: block.ids, scores: block.scores, progress });
        if let (Ok(()), Some(reason)) = (sent, block.last) {
            let _ = events.try_send(BlockEvent::Finished { reason, progress });
        }
    }
}
