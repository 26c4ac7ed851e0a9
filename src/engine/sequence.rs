//! One running sequence: its slot, its canvas, and the reader it reports to.

use std::time::Instant;

use tokio::sync::mpsc::error::TrySendError;

use super::ModelInfo;
use super::batch::{RowsView, Sampling, StepBatch};
use super::event::{BlockEvent, FinishReason, Progress, SequenceError};
use super::reader::Writer;
use super::slots::SlotLease;
use crate::decode::{State, StepPlan};
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

/// How a sequence left the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Finished(FinishReason),
    /// The reader is gone, or too slow for its buffer.
    Cancelled,
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
        Self { ticket, progress: Progress::default(), last_tick: tick, state, slot }
    }

    pub fn plan(&self) -> StepPlan {
        self.state.plan()
    }

    /// Append the step of `plan` to the tick's rows.
    pub fn pack(&self, plan: &StepPlan, batch: &mut StepBatch) {
        let request = &self.ticket.request;
        let sampling = (request.temperature() > 0.0).then(|| Sampling {
            temperature: request.temperature(),
            seed: request.seed(),
            choice: request.choice(),
            step: u32::try_from(self.progress.nfe).unwrap_or(u32::MAX),
        });
        batch.push_step(&self.state, plan, self.slot.id(), sampling);
    }

    /// Apply a step's result and tell the reader of a finished block. `Some` when the sequence is over.
    pub fn apply(&mut self, rows: RowsView<'_>, eos_ids: &[u32]) -> Option<Ending> {
        let report = self.state.advance(rows);
        self.progress.nfe += 1;
        self.progress.revisions += report.revised;
        let block = &self.state.tokens()[report.finished?];
        let end = block.iter().position(|id| eos_ids.contains(id));
        let ids = block[..end.unwrap_or(block.len())].to_vec();
        self.progress.blocks += 1;
        // End-of-text counts as one token.
        self.progress.tokens += ids.len() + usize::from(end.is_some());
        let progress = self.progress;
        let reason = match end {
            Some(_) => Some(FinishReason::Stop),
            None => self.state.done().then_some(FinishReason::Length),
        };
        let mut sent = self.ticket.events.try_send(BlockEvent::Block { ids, progress });
        if let (Ok(()), Some(reason)) = (&sent, reason) {
            sent = self.ticket.events.try_send(BlockEvent::Finished { reason, progress });
        }
        match sent {
            Ok(()) => reason.map(Ending::Finished),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => Some(Ending::Cancelled),
        }
    }
}
