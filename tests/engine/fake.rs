//! A scripted backend: tokens are a function of the position, and marker tokens in the prompt make it misbehave.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

use evotoken::engine::batch::{Backend, BackendError, SlotId, StepBatch, StepOutput};

/// A prompt with this token makes every forward pass that carries it fail.
pub const FAIL: u32 = 90;
/// A prompt with this token makes every forward pass that carries it panic.
pub const PANIC: u32 = 91;
/// A prompt with this token makes no numbers of its own rows.
pub const NO_NUMBERS: u32 = 92;
/// A prompt with this token gets fewer rows than it needs.
pub const TOO_FEW_ROWS: u32 = 93;
/// A prompt with this token gets no slot.
pub const NO_MEMORY_CANVAS: usize = 77;
/// The fake's end-of-text, written at canvas positions that are a multiple of [`EOS_EVERY`].
pub const EOS: u32 = 1;
pub const EOS_EVERY: usize = 50;
pub const VOCAB: usize = 100;
pub const MASK: u32 = 99;

/// What the fake tells the test.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Opened(SlotId),
    Closed(SlotId),
    /// Sequences in a tick.
    Tick(usize),
    /// These layers of a long step.
    Layers(Range<usize>),
}

pub struct FakeBackend {
    seen: Sender<Seen>,
    /// Taken before every tick, if there is one: the test decides when a tick may run.
    gate: Option<Receiver<()>>,
    layers: usize,
}

impl FakeBackend {
    pub fn new(gate: Option<Receiver<()>>) -> (Self, Receiver<Seen>) {
        Self::of_layers(1, gate)
    }

    /// A model whose steps can be cut.
    pub fn of_layers(layers: usize, gate: Option<Receiver<()>>) -> (Self, Receiver<Seen>) {
        let (seen, events) = channel();
        (Self { seen, gate, layers }, events)
    }

    fn tell(&self, seen: Seen) {
        // A test that stopped listening does not care.
        let _ = self.seen.send(seen);
    }
}

/// The token the fake writes at a canvas position.
pub fn token_at(position: usize) -> u32 {
    if position.is_multiple_of(EOS_EVERY) { EOS } else { 2 + (position % 80) as u32 }
}

impl Backend for FakeBackend {
    fn bytes_per_position(&self) -> usize {
        10
    }

    fn open_slot(&mut self, slot: SlotId, canvas: usize) -> Result<(), BackendError> {
        if canvas == NO_MEMORY_CANVAS {
            return Err(BackendError::OutOfMemory { bytes: canvas * 10 });
        }
        self.tell(Seen::Opened(slot));
        Ok(())
    }

    fn close_slot(&mut self, slot: SlotId) {
        self.tell(Seen::Closed(slot));
    }

    fn step(&mut self, batch: &StepBatch) -> Result<StepOutput, BackendError> {
        if let Some(gate) = &self.gate {
            // A dropped gate is an open one.
            let _ = gate.recv();
        }
        self.tell(Seen::Tick(batch.segments.len()));
        if batch.pairs.iter().any(|(id, _)| *id == PANIC) {
            panic!("the fake was asked to panic");
        }
        if batch.pairs.iter().any(|(id, _)| *id == FAIL) {
            return Err(BackendError::Forward("the fake was asked to fail".to_owned()));
        }
        let mut output = output(batch);
        if batch.pairs.iter().any(|(id, _)| *id == TOO_FEW_ROWS) {
            output.guesses.clear();
        }
        Ok(output)
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn step_layers(
        &mut self,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> Result<Option<StepOutput>, BackendError> {
        self.tell(Seen::Layers(layers.clone()));
        if batch.pairs.iter().any(|(id, _)| *id == PANIC) {
            panic!("the fake was asked to panic");
        }
        Ok((layers.end == self.layers).then(|| output(batch)))
    }
}

/// What the fake writes, with certainty.
pub fn output(batch: &StepBatch) -> StepOutput {
    let mut output = StepOutput { top_k: batch.top_k, ..StepOutput::default() };
    let mut first_row = 0;
    for segment in &batch.segments {
        let mut rows = first_row..first_row + segment.window.len();
        first_row = rows.end;
        let no_numbers = rows.any(|row| batch.row(row).iter().any(|(id, _)| *id == NO_NUMBERS));
        for position in segment.targets.clone() {
            if no_numbers {
                output.push_fault("asked for no number".to_owned());
                continue;
            }
            let others = (1..batch.top_k as u32).map(|rank| (rank + 2, 0.01));
            let given = segment.sampling.as_ref().and_then(|sampling| sampling.given);
            let best = (given.unwrap_or(token_at(position)), 0.95);
            output.push_row(best, std::iter::once(best).chain(others));
        }
    }
    output
}
