//! One running sequence: its slot, its canvas, and the reader it reports to.

use std::sync::Arc;
use std::time::Instant;

use super::ModelInfo;
use super::adjustment::Adjustment;
use super::batch::{PrefixId, RowsView, Sampling, SlotId, StepBatch};
use super::event::{BlockEvent, FinishReason, Progress, SequenceError};
use super::long::LongStep;
use super::reader::Writer;
use super::request::GenerateRequest;
use super::slots::SlotLease;
use crate::decode::{Scoring, State, StepPlan};
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

/// What became complete.
#[derive(Debug)]
pub(super) struct Part {
    /// For the reader, unless there is nothing to tell.
    event: Option<BlockEvent>,
    /// Why the answer is over with it, if it is.
    last: Option<FinishReason>,
}

/// A sequence in a slot. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Sequence {
    pub ticket: Ticket,
    pub progress: Progress,
    /// The tick of the last step.
    pub last_tick: u64,
    /// A step that is carried out over several ticks.
    pub long: Option<LongStep>,
    /// Until the prompt is scored.
    scoring: Option<Scoring>,
    /// The kept prefix that the slot holds, of a block-causal model; `None`: what it holds is not kept.
    prefix: Option<PrefixId>,
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
            request.variant().attention,
            model.mask_id,
        );
        let state = state.with_suffix(request.suffix()).with_track(request.track().cloned());
        let state = match request.sampling().logprobs {
            Some(alternatives) => state.with_scores(alternatives),
            None => state,
        };
        let state = if request.sampling().progress { state.with_watcher() } else { state };
        let scoring = request
            .scores_prompt()
            .map(|(rule, alternatives)| Scoring::new(rule, request.prompt(), model.mask_id, alternatives));
        let progress = Progress { seed: request.seed(), ..Progress::default() };
        let prefix = Some(PrefixId::empty(request.variant().adapter_id()));
        Self { ticket, progress, last_tick: tick, long: None, scoring, prefix, state, slot }
    }

    /// What is complete before the first step: a prompt of one token has nothing to score, an answer without room nothing
    /// to decide.
    pub fn begin(&mut self) -> Option<Part> {
        match &self.scoring {
            Some(scoring) if scoring.done() => Some(self.scored()),
            Some(_) => None,
            None => self.end().map(|reason| Part { event: None, last: Some(reason) }),
        }
    }

    /// The next step: first the prompt is scored, if that is asked for, then the answer is denoised.
    pub fn plan(&self) -> StepPlan {
        self.scoring.as_ref().map_or_else(|| self.state.plan(), Scoring::plan)
    }

    /// Its slot.
    pub fn slot(&self) -> SlotId {
        self.slot.id()
    }

    /// What the next step makes final, if others can use it: a kept prefix, and the tokens that come to it.
    pub fn computes(&self) -> Option<(PrefixId, &[u32])> {
        // Scoring writes something else into the slot.
        let stretch = self.state.stretch().filter(|_| self.scoring.is_none())?;
        Some((self.prefix?, &self.state.tokens()[stretch]))
    }

    /// The slot was given what [`Self::computes`] says, and with it the prefix `id`: the next step need not feed it in.
    pub fn restored(&mut self, id: PrefixId) {
        self.prefix = Some(id);
        self.state.store();
    }

    /// The step that just ran computed what [`Self::computes`] says; `id` if that is kept now.
    pub fn computed(&mut self, id: Option<PrefixId>) {
        self.prefix = id;
    }

    /// Append the step of `plan` to the tick's rows.
    pub fn pack(&self, plan: &StepPlan, batch: &mut StepBatch) {
        let first = batch.segments.len();
        self.push(plan, batch);
        batch.adapt(first, self.ticket.request.variant().adapter_id());
    }

    fn push(&self, plan: &StepPlan, batch: &mut StepBatch) {
        if let Some(scoring) = &self.scoring {
            return batch.push_scoring(scoring, plan, self.slot.id());
        }
        let request = &self.ticket.request;
        let adjustment = Adjustment::new(request, &self.state).map(Arc::new);
        let asked = request.temperature() > 0.0 || adjustment.is_some();
        let sampling = asked.then_some(Sampling {
            adjustment,
            temperature: request.temperature(),
            filters: request.sampling().filters,
            seed: request.seed(),
            choice: request.choice(),
            step: u32::try_from(self.progress.nfe).unwrap_or(u32::MAX),
            given: None,
        });
        batch.push_step(&self.state, plan, self.slot.id(), sampling);
    }

    /// Begin the step of `plan` as one over several ticks.
    pub fn begin_long(&mut self, plan: StepPlan) {
        let mut batch = StepBatch::default();
        self.pack(&plan, &mut batch);
        self.long = Some(LongStep::new(plan, batch));
    }

    /// Apply a step's result. `Some` when it finished a block, or the scores of the prompt.
    pub fn apply(&mut self, rows: RowsView<'_>, eos_ids: &[u32]) -> Option<Part> {
        if let Some(scoring) = &mut self.scoring {
            scoring.advance(rows);
            return scoring.done().then(|| self.scored());
        }
        self.progress.nfe += 1;
        let report = if self.ticket.request.sampling().progress {
            let (report, snapshot) = self.state.advance_watched(rows);
            self.ticket.events.tell_step(self.progress.nfe, snapshot);
            report
        } else {
            self.state.advance(rows)
        };
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
        let last = if end.is_some() { Some(FinishReason::Stop) } else { self.end() };
        Some(Part { event: Some(BlockEvent::Block { ids, scores, progress: self.progress }), last })
    }

    fn scored(&mut self) -> Part {
        let scores = self.scoring.take().map_or_else(Vec::new, Scoring::into_scores);
        Part { event: Some(BlockEvent::Scored { scores }), last: self.end() }
    }

    /// Why there is nothing left to decide, if there is not. What follows a guide is complete also without end-of-text.
    fn end(&self) -> Option<FinishReason> {
        let complete = self.ticket.request.track().is_some();
        let reason = if complete { FinishReason::Stop } else { FinishReason::Length };
        self.state.done().then_some(reason)
    }

    /// How the sequence is over with this part, if it is. A reader that has no room for it, or left, is given up.
    pub fn outcome(&self, part: &Part) -> Option<Outcome> {
        if !self.ticket.events.has_room(usize::from(part.event.is_some()) + usize::from(part.last.is_some()))
        {
            return Some(self.ticket.outcome_of_leaving());
        }
        part.last.map(|reason| match reason {
            FinishReason::Stop => Outcome::Stop,
            FinishReason::Length => Outcome::Length,
        })
    }

    /// Tell the reader. One that leaves at this moment is noticed by the next reap.
    pub fn tell(&self, part: Part) {
        let events = &self.ticket.events;
        let sent = part.event.map_or(Ok(()), |event| events.try_send(event));
        if let (Ok(()), Some(reason)) = (sent, part.last) {
            let _ = events.try_send(BlockEvent::Finished { reason, progress: self.progress });
        }
    }
}
