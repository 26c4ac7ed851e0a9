//! Who waits for a slot, and which engine takes whom.
//!
//! All engines take from one queue, first come first served. An engine takes as many as its share of the work is: so a burst
//! spreads at once, and none runs idle while somebody waits whom it has room for. The queue is the only thing that engines
//! share; its lock is held for a moment, never while a model computes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::sequence::Ticket;
use crate::telemetry::metrics::Metrics;

/// What an engine has to do, and room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Sequences that run.
    pub sequences: usize,
    /// Slots that nobody holds.
    pub free_slots: usize,
    /// Canvas positions for which there is K/V memory.
    pub free_positions: usize,
}

impl Load {
    fn has_room(&self, canvas: usize) -> bool {
        self.free_slots > 0 && canvas <= self.free_positions
    }
}

/// A sequence that waits, with its place.
#[derive(Debug)]
pub(super) struct Waiting {
    pub ticket: Ticket,
    /// Given back when the sequence no longer waits.
    pub place: OwnedSemaphorePermit,
    /// The one engine that may take it.
    pub only: Option<usize>,
}

/// What is known of an engine.
#[derive(Debug, Clone)]
struct Known {
    /// As of when it last looked, with whom it took since.
    load: Load,
    /// It was told to look and has not yet.
    told: bool,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Waiting>,
    /// By their numbers; `None`: it has ended.
    engines: Vec<Option<Known>>,
}

/// The queue of all engines.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// An empty one for so many idle engines, each with room like this.
    pub fn new(engines: usize, load: Load, metrics: Arc<Metrics>) -> Self {
        let state =
            State { waiting: VecDeque::new(), engines: vec![Some(Known { load, told: false }); engines] };
        Self { state: Mutex::new(state), metrics }
    }

    // A thread that panicked leaves nothing half done behind the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait from now on. Returns the engines that must be told to look, which are none that were told already. `None`, and nobody
    /// waits: the engines that were to take them have ended.
    pub fn push(&self, some: Vec<Waiting>) -> Option<Vec<usize>> {
        let mut state = self.lock();
        let has_ended = |only: usize| state.engines.get(only).is_none_or(Option::is_none);
        let deserted = state.engines.iter().all(Option::is_none);
        if deserted || some.iter().any(|waiting| waiting.only.is_some_and(has_ended)) {
            return None;
        }
        state.waiting.extend(some);
        self.metrics.set_waiting(state.waiting.len());
        let engines = state.engines.iter_mut().enumerate();
        let news = engines.filter_map(|(number, known)| {
            let is_news = !std::mem::replace(&mut known.as_mut()?.told, true);
            is_news.then_some(number)
        });
        Some(news.collect())
    }

    /// Whom an engine that has this to do should take next.
    pub fn take(&self, engine: usize, load: Load) -> Option<Ticket> {
        let mut state = self.lock();
        let next = state.next(engine, load)?;
        let Waiting { ticket, place, .. } = state.waiting.remove(next)?;
        drop(place);
        if let Some(known) = &mut state.engines[engine] {
            known.load.sequences += 1;
        }
        self.metrics.set_waiting(state.waiting.len());
        Some(ticket)
    }

    /// Whether there is somebody for an engine that has this to do.
    pub fn has_any_for(&self, engine: usize, load: Load) -> bool {
        self.lock().next(engine, load).is_some()
    }

    /// Keep only some of those that wait.
    pub fn retain(&self, stays: impl Fn(&Ticket) -> bool) {
        let mut state = self.lock();
        state.waiting.retain(|waiting| stays(&waiting.ticket));
        self.metrics.set_waiting(state.waiting.len());
    }

    /// Everybody who waits.
    pub fn take_all(&self) -> Vec<Ticket> {
        let mut state = self.lock();
        self.metrics.set_waiting(0);
        state.waiting.drain(..).map(|waiting| waiting.ticket).collect()
    }

    /// An engine has ended. Returns those that nobody will take now.
    pub fn leave(&self, engine: usize) -> Vec<Ticket> {
        let mut state = self.lock();
        state.engines[engine] = None;
        let deserted = state.engines.iter().all(Option::is_none);
        let (gone, left): (VecDeque<_>, VecDeque<_>) =
            state.waiting.drain(..).partition(|waiting| deserted || waiting.only == Some(engine));
        state.waiting = left;
        self.metrics.set_waiting(state.waiting.len());
        gone.into_iter().map(|waiting| waiting.ticket).collect()
    }
}

impl State {
    /// The index of the one to take next. Nobody goes before another, unless it waits for one engine.
    fn next(&mut self, engine: usize, load: Load) -> Option<usize> {
        *self.engines.get_mut(engine)? = Some(Known { load, told: false });
        let index = self.waiting.iter().position(|w| w.only.is_none_or(|only| only == engine))?;
        let waiting = &self.waiting[index];
        let canvas = waiting.ticket.request.canvas();
        if !load.has_room(canvas) {
            return None;
        }
        if waiting.only.is_some() {
            return Some(index);
        }
        let loads = self.engines.iter().flatten().map(|known| known.load);
        let with_room = loads.filter(|other| other.has_room(canvas));
        let (engines, running) =
            with_room.fold((0, 0), |(count, sum), other| (count + 1, sum + other.sequences));
        // One of those with room always has less than this, so somebody takes it.
        let share = (running + self.waiting.len()).div_ceil(engines);
        (load.sequences < share).then_some(index)
    }
}
