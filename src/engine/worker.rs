//! The engine thread. It owns the backend, the slots and the sequences: no locks, and it sleeps when there is nothing
//! to do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use super::batch::{AdapterId, Backend, BackendError, RowsView, StepBatch, StepOutput};
use super::event::{BlockEvent, SequenceError};
use super::fault::{caught, reason};
use super::long::LongStep;
use super::queue::{Load, Queue};
use super::scheduler::{self, Contender};
use super::sequence::{Part, Sequence, Ticket};
use super::sharing::Sharing;
use super::slots::{SlotLease, SlotPool};
use super::tally::{of_queued, of_sequence, of_steps};
use super::{EngineLimits, ModelInfo};
use crate::decode::StepPlan;
use crate::telemetry::metrics::{FinishStats, Metrics, Outcome, TickStats};

/// What the handle tells the thread.
#[derive(Debug)]
pub(super) enum Message {
    /// Somebody waits in the queue.
    Look,
    /// Nobody uses this adapter any more.
    DropAdapter(AdapterId),
    /// Take nothing new.
    StopAdmitting,
    /// End everything.
    Stop,
}

#[derive(Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Draining,
    Stopped,
}

/// Who steps in a tick: (index into `running`, what its step feeds in), and who goes on with a long step.
struct Turn {
    whole: Vec<(usize, StepPlan)>,
    long: Option<usize>,
}

/// Steps of one pass, with what the model thinks of their rows; `None`: the pass failed.
type Done = (Vec<(usize, StepPlan)>, Option<StepOutput>);

/// Which engine a worker is, and what connects it to the others.
pub(super) struct Engine {
    pub number: usize,
    pub inbox: Receiver<Message>,
    pub queue: Arc<Queue>,
    /// Its own.
    pub metrics: Arc<Metrics>,
}

pub(super) struct Worker<B> {
    backend: B,
    model: ModelInfo,
    limits: EngineLimits,
    number: usize,
    metrics: Arc<Metrics>,
    inbox: Receiver<Message>,
    queue: Arc<Queue>,
    mode: Mode,
    /// In order of arrival.
    running: Vec<Sequence>,
    slots: SlotPool,
    sharing: Sharing,
    tick: u64,
}

impl<B: Backend> Worker<B> {
    pub fn new(backend: B, model: ModelInfo, limits: EngineLimits, engine: Engine) -> Self {
        let Engine { number, inbox, queue, metrics } = engine;
        let slots = SlotPool::new(limits.slots, limits.kv_bytes);
        let sharing = Sharing::new(&limits, Arc::clone(&metrics));
        metrics.set_slot_limit(limits.slots);
        let (mode, running) = (Mode::Open, Vec::new());
        Self { backend, model, limits, number, metrics, inbox, queue, mode, running, slots, sharing, tick: 0 }
    }

    /// Until the engine is stopped, or drained, or nobody can submit any more.
    pub fn run(mut self) {
        while self.receive() {
            // The model's panics are caught closer by, see `caught`. One of our own must not end the server either: nobody
            // knows whose it is, so all sequences that run here fail.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.turn())) {
                tracing::error!(reason = reason(panic), "the engine panicked between the model's steps");
                self.fail_running(SequenceError::Backend);
                self.sharing.make_room(&mut self.backend, 0);
                self.release();
            }
        }
        self.fail_running(SequenceError::Stopping);
        if self.mode == Mode::Stopped {
            self.fail_waiting();
        }
        self.release();
    }

    /// One turn of the loop, between what came in and the next.
    fn turn(&mut self) {
        self.reap();
        self.admit();
        let turn = self.plan();
        self.step(turn);
        self.release();
    }

    /// Take what is in the inbox; sleep while there is nothing else to do. False: the engine ends.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.running.is_empty() && !self.queue.has_any_for(self.number, self.load());
            let message = match (idle, &self.mode) {
                (_, Mode::Stopped) | (true, Mode::Draining) => return false,
                (true, Mode::Open) => self.inbox.recv().map_err(|_| TryRecvError::Disconnected),
                (false, _) => self.inbox.try_recv(),
            };
            match message {
                Ok(Message::Look) => {}
                Ok(Message::DropAdapter(adapter)) => self.sharing.drop_adapter(&mut self.backend, adapter),
                Ok(Message::StopAdmitting) => self.mode = Mode::Draining,
                Ok(Message::Stop) => self.mode = Mode::Stopped,
                Err(TryRecvError::Disconnected) if idle => return false,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Let go of sequences whose reader left or whose time is up.
    fn reap(&mut self) {
        let now = Instant::now();
        let metrics = &self.metrics;
        self.queue.retain(|ticket| !let_go(metrics, ticket, &of_queued(ticket, now), now));
        self.running.retain(|sequence| !let_go(metrics, &sequence.ticket, &of_sequence(sequence, now), now));
        self.release();
    }

    /// Give slots to this engine's share of the sequences that wait, first come first served.
    fn admit(&mut self) {
        while let Some(ticket) = self.queue.take(self.number, self.load()) {
            let canvas = ticket.request.canvas();
            let slot = self.slots.lease(canvas * self.backend.bytes_per_position());
            let slot = slot.expect("the queue was told what is free, and nobody else takes it");
            self.start(ticket, slot, canvas);
        }
        self.tell_load();
    }

    fn load(&self) -> Load {
        Load {
            sequences: self.running.len(),
            free_slots: self.slots.free_slots(),
            free_positions: self.slots.free_bytes() / self.backend.bytes_per_position().max(1),
        }
    }

    fn tell_load(&self) {
        self.metrics.set_load(self.running.len(), self.slots.used_bytes(), self.limits.kv_bytes);
    }

    fn start(&mut self, ticket: Ticket, slot: SlotLease, canvas: usize) {
        let now = Instant::now();
        if let Err(error) = self.open(&slot, canvas) {
            tracing::warn!(%error, canvas, "a sequence was refused");
            self.metrics.finished(Outcome::Failed, &of_queued(&ticket, now));
            ticket.fail(SequenceError::OutOfMemory);
            return;
        }
        self.metrics.admitted(now.duration_since(ticket.queued_at).as_secs_f64());
        // A reader that left meanwhile is noticed by the next reap.
        let _ = ticket.events.try_send(BlockEvent::Admitted);
        let mut sequence = Sequence::new(ticket, slot, &self.model, self.tick);
        let is_over = sequence.begin().is_some_and(|part| self.hand_out(&sequence, part, now));
        if is_over {
            // Its memory goes back before the next one takes some.
            drop(sequence);
            self.release();
        } else {
            self.running.push(sequence);
        }
    }

    /// Reserve a slot's memory. What is kept for others makes room for it: first what the bound asks for, and all of it
    /// if there is less memory than was thought.
    fn open(&mut self, slot: &SlotLease, canvas: usize) -> Result<(), BackendError> {
        self.sharing.make_room(&mut self.backend, self.slots.free_bytes());
        let opened = self.backend.open_slot(slot.id(), canvas);
        if opened.is_ok() || !self.sharing.make_room(&mut self.backend, 0) {
            return opened;
        }
        self.backend.open_slot(slot.id(), canvas)
    }

    /// Who steps in this tick.
    fn plan(&mut self) -> Turn {
        self.sharing.fill(&mut self.backend, &mut self.running);
        let alike = self.sharing.alike(&self.backend, &self.running, self.slots.free_bytes());
        let mut plans: Vec<Option<StepPlan>> = self.running.iter().map(|s| Some(s.plan())).collect();
        let contenders: Vec<Contender> = std::iter::zip(&self.running, std::iter::zip(&plans, alike))
            .map(|(s, (plan, alike))| Contender {
                rows: plan.as_ref().map_or(0, StepPlan::rows),
                last_tick: s.last_tick,
                long: s.long.is_some(),
                alike,
            })
            .collect();
        let cut = self.backend.layers() > 1;
        let scheduler::Turn { whole, long } = scheduler::choose(&contenders, self.limits.rows_per_tick, cut);
        if let Some(index) = long
            && !contenders[index].long
            && let Some(plan) = plans[index].take()
        {
            self.running[index].begin_long(plan);
        }
        Turn { whole: whole.into_iter().filter_map(|i| Some((i, plans[i].take()?))).collect(), long }
    }

    /// One tick: a forward pass of those that step whole, and some layers of the one whose step is too long for that.
    fn step(&mut self, turn: Turn) {
        let Turn { whole, long } = turn;
        if whole.is_empty() && long.is_none() {
            return;
        }
        let started = Instant::now();
        let mut stats = of_steps(&whole);
        let _tick = tracing::debug_span!("tick", sequences = stats.sequences, rows = stats.rows).entered();
        let mut done = Vec::new();
        if !whole.is_empty() {
            let output = self.step_whole(&whole);
            done.push((whole, output));
        }
        if let Some(index) = long {
            let left = self.limits.rows_per_tick.saturating_sub(stats.rows);
            let refresh = self.running[index].long.as_ref().is_some_and(LongStep::refresh);
            stats.sequences += 1;
            stats.refreshes += usize::from(refresh);
            stats.refinements += usize::from(!refresh);
            let (rows, ended) = self.step_long(index, left);
            stats.rows += rows;
            done.extend(ended);
        }
        let now = Instant::now();
        stats.seconds = now.duration_since(started).as_secs_f64();
        self.apply(done, &stats, now);
    }

    /// One forward pass. `None`: it failed, and was logged.
    fn step_whole(&mut self, plan: &[(usize, StepPlan)]) -> Option<StepOutput> {
        let mut batch = StepBatch::default();
        for (index, step) in plan {
            self.running[*index].pack(step, &mut batch);
        }
        let backend = &mut self.backend;
        caught(plan.len(), || backend.step(&batch))
    }

    /// The next layers of a long step, as many as `rows` rows of a whole step cost. Returns how many rows' worth they
    /// were, and the step with its result if it is over.
    fn step_long(&mut self, index: usize, rows: usize) -> (usize, Option<Done>) {
        let (backend, sequence) = (&mut self.backend, &mut self.running[index]);
        let Some(step) = &mut sequence.long else { return (0, None) };
        let layers = backend.layers();
        let next = step.next(layers, rows);
        let cost = (step.batch().rows() * next.len()).div_ceil(layers);
        let result = caught(1, || backend.step_layers(step.batch(), next.clone()));
        step.reached(next.end);
        let output = match result {
            Some(None) => return (cost, None),
            Some(Some(output)) => Some(output),
            None => None,
        };
        let plan = sequence.long.take().map(|step| (index, step.into_plan()));
        (cost, Some((plan.into_iter().collect(), output)))
    }

    /// Give every stepped sequence its rows; those that are over leave. What happened is counted before a reader hears
    /// of it, so that nobody who has an answer reads counts without it.
    fn apply(&mut self, done: Vec<Done>, stats: &TickStats, now: Instant) {
        self.tick += 1;
        self.metrics.tick(stats);
        let mut over: Vec<usize> = Vec::new();
        for (plan, output) in done {
            let Some(output) = output else {
                over.extend(plan.iter().map(|(index, _)| *index));
                plan.iter().for_each(|(i, _)| self.fail(&self.running[*i], SequenceError::Backend, now));
                continue;
            };
            let mut row = 0;
            for (index, step) in plan {
                let (rows, fault) = (output.rows(row, step.needed()), output.fault(row, step.needed()));
                row += step.needed();
                let is_over = match fault {
                    Some((target, reason)) => {
                        tracing::error!(reason, target, "the model made no sense of one sequence");
                        self.fail(&self.running[index], SequenceError::Backend, now);
                        true
                    }
                    None => self.advance(index, &step, rows, now),
                };
                if is_over {
                    over.push(index);
                }
            }
        }
        over.sort_unstable();
        for index in over.into_iter().rev() {
            self.running.remove(index);
        }
    }

    /// One sequence's step. True: it is over.
    fn advance(&mut self, index: usize, step: &StepPlan, rows: RowsView<'_>, now: Instant) -> bool {
        let sequence = &mut self.running[index];
        self.sharing.keep(&mut self.backend, sequence, step, self.slots.free_bytes());
        sequence.last_tick = self.tick;
        let Some(part) = sequence.apply(rows, &self.model.eos_ids) else { return false };
        if sequence.progress.blocks == 1 {
            self.metrics.first_block(now.duration_since(sequence.ticket.queued_at).as_secs_f64());
        }
        self.hand_out(&self.running[index], part, now)
    }

    /// Tell a sequence's reader what became complete. True: the sequence is over.
    fn hand_out(&self, sequence: &Sequence, part: Part, now: Instant) -> bool {
        let outcome = sequence.outcome(&part);
        if let Some(outcome) = outcome {
            self.metrics.finished(outcome, &of_sequence(sequence, now));
        }
        sequence.tell(part);
        outcome.is_some()
    }

    fn fail(&self, sequence: &Sequence, error: SequenceError, now: Instant) {
        self.metrics.finished(Outcome::Failed, &of_sequence(sequence, now));
        sequence.ticket.fail(error);
    }

    /// Tell the backend which slots were given back.
    fn release(&mut self) {
        for id in self.slots.take_returned() {
            self.backend.close_slot(id);
        }
        self.tell_load();
    }

    fn fail_waiting(&self) {
        let now = Instant::now();
        for ticket in self.queue.take_all() {
            self.metrics.finished(Outcome::Failed, &of_queued(&ticket, now));
            ticket.fail(SequenceError::Stopping);
        }
    }

    fn fail_running(&mut self, error: SequenceError) {
        let now = Instant::now();
        for sequence in std::mem::take(&mut self.running) {
            self.fail(&sequence, error, now);
        }
    }
}

/// Count a sequence that must go, and tell one whose time is up. False: it may stay.
fn let_go(metrics: &Metrics, ticket: &Ticket, stats: &FinishStats, now: Instant) -> bool {
    if ticket.cancelled() {
        metrics.finished(ticket.outcome_of_leaving(), stats);
    } else if ticket.expired(now) {
        metrics.finished(Outcome::Failed, stats);
        ticket.fail(SequenceError::Timeout);
    } else {
        return false;
    }
    true
}
