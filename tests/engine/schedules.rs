//! Whatever arrives, leaves or fails in whatever order: what must hold of slots, endings and turns.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use evotoken::engine::batch::{Backend, BackendError, SlotId, StepBatch, StepOutput};
use evotoken::engine::request::GenerateRequest;
use evotoken::engine::{BlockEvent, EngineLimits, Reader, SequenceError, start};
use evotoken::telemetry::metrics::Metrics;
use proptest::prelude::*;

use super::{answer, engine_limits, events, fake, model, request};

/// Canvases are multiples of this plus the number of the sequence, so that a slot's canvas names its sequence.
const UNIT: usize = 64;
const BYTES_PER_POSITION: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Well,
    /// Its forward passes fail, and with them those of its neighbours.
    Fail,
    Panic,
    /// Its rows come back as no numbers.
    NoNumbers,
    NoMemory,
}

impl Fate {
    fn token(self) -> u32 {
        match self {
            Self::Well | Self::NoMemory => 5,
            Self::Fail => fake::FAIL,
            Self::Panic => fake::PANIC,
            Self::NoNumbers => fake::NO_NUMBERS,
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    /// Sequences of one request: how they fare, how many units of canvas, and tokens to write.
    Submit(Vec<(Fate, usize, usize)>),
    /// The reader of so-and-so-many readers leaves.
    Leave(usize),
    /// So many ticks may run.
    Ticks(usize),
}

#[derive(Debug)]
enum Seen {
    Opened(SlotId, usize),
    Refused(usize),
    Closed(SlotId),
    Tick(HashSet<SlotId>),
}

/// Reports all that is asked of it, and lets a tick pass only with a permit.
struct Witness {
    seen: Sender<Seen>,
    permits: Receiver<()>,
    no_memory: HashSet<usize>,
    layers: usize,
}

impl Backend for Witness {
    fn bytes_per_position(&self) -> usize {
        BYTES_PER_POSITION
    }

    fn open_slot(&mut self, slot: SlotId, canvas: usize) -> Result<(), BackendError> {
        if self.no_memory.contains(&(canvas % UNIT)) {
            self.seen.send(Seen::Refused(canvas)).unwrap();
            return Err(BackendError::OutOfMemory { bytes: canvas * BYTES_PER_POSITION });
        }
        self.seen.send(Seen::Opened(slot, canvas)).unwrap();
        Ok(())
    }

    fn close_slot(&mut self, slot: SlotId) {
        self.seen.send(Seen::Closed(slot)).unwrap();
    }

    fn step(&mut self, batch: &StepBatch) -> Result<StepOutput, BackendError> {
        // Without a sender ticks run freely.
        let _ = self.permits.recv();
        self.seen.send(Seen::Tick(batch.segments.iter().map(|segment| segment.slot).collect())).unwrap();
        let fed = |token| batch.pairs.iter().any(|(id, _)| *id == token);
        if fed(fake::PANIC) {
            // Unlike panic!, this prints nothing.
            resume_unwind(Box::new("asked to panic"));
        }
        if fed(fake::FAIL) {
            return Err(BackendError::Forward("asked to fail".to_owned()));
        }
        Ok(fake::output(batch))
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn step_layers(
        &mut self,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> Result<Option<StepOutput>, BackendError> {
        if layers.end < self.layers { Ok(None) } else { self.step(batch).map(Some) }
    }
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let fate = prop_oneof![
        12 => Just(Fate::Well), 1 => Just(Fate::Fail), 1 => Just(Fate::Panic), 1 => Just(Fate::NoNumbers),
        1 => Just(Fate::NoMemory)
    ];
    let sequence = (fate, 1usize..4, 1usize..21);
    let action = prop_oneof![
        3 => proptest::collection::vec(sequence, 1..4).prop_map(Action::Submit),
        2 => (0usize..UNIT).prop_map(Action::Leave),
        3 => (1usize..8).prop_map(Action::Ticks),
    ];
    // At most 20 requests of 3 sequences: fewer than a unit.
    proptest::collection::vec(action, 1..20)
}

fn sequences(actions: &[Action]) -> Vec<(Fate, GenerateRequest)> {
    let all = actions.iter().filter_map(|a| if let Action::Submit(s) = a { Some(s) } else { None }).flatten();
    let one = |(number, (fate, units, tokens)): (usize, &(Fate, usize, usize))| {
        let prompt = vec![fate.token(); units * UNIT + number - tokens];
        (*fate, request(&prompt, *tokens))
    };
    all.enumerate().map(one).collect()
}

/// Slots are held once, freed before they are used again, and enough; sequences start in the order they came in; and
/// whoever holds a slot steps at least once in as many ticks as there are slots, if no step is cut.
fn check(seen: impl IntoIterator<Item = Seen>, limits: &EngineLimits, layers: usize) {
    let mut open: HashMap<SlotId, (usize, usize)> = HashMap::new();
    let mut used: HashSet<SlotId> = HashSet::new();
    let mut last_started = None;
    let mut starts = |canvas: usize| {
        let number = Some(canvas % UNIT);
        assert!(last_started < number, "{number:?} started after {last_started:?}");
        last_started = number;
    };
    for seen in seen {
        match seen {
            Seen::Refused(canvas) => starts(canvas),
            Seen::Opened(slot, canvas) => {
                starts(canvas);
                assert!(used.insert(slot), "{slot:?} was there before");
                assert!(open.keys().all(|held| held.index != slot.index), "{slot:?} is held twice");
                open.insert(slot, (canvas, 0));
                let bytes: usize = open.values().map(|(canvas, _)| canvas * BYTES_PER_POSITION).sum();
                assert!(open.len() <= limits.slots && bytes <= limits.kv_bytes, "{open:?}");
            }
            Seen::Closed(slot) => drop(open.remove(&slot)),
            Seen::Tick(stepped) => {
                assert!(stepped.iter().all(|slot| open.contains_key(slot)), "{stepped:?} of {open:?}");
                for (slot, (_, waited)) in &mut open {
                    *waited = if stepped.contains(slot) { 0 } else { *waited + 1 };
                    assert!(layers > 1 || *waited < limits.slots, "{slot:?} was passed over {waited} times");
                }
            }
        }
    }
    assert!(open.is_empty(), "{open:?} were never closed");
}

fn check_ending(reader: Reader, fate: Fate, request: &GenerateRequest, faults: bool) {
    let events = events(reader);
    match (fate, events.last()) {
        (Fate::NoMemory, last) => assert_eq!(last, Some(&BlockEvent::Failed(SequenceError::OutOfMemory))),
        (Fate::Well, Some(BlockEvent::Finished { .. })) => {
            let positions = request.prompt().len()..request.canvas();
            let said = positions.map(fake::token_at).take_while(|id| *id != fake::EOS);
            let expected: Vec<u32> = said.collect();
            // End-of-text ends the answer with its block.
            assert_eq!(answer(&events).0, expected);
        }
        // A neighbour may have failed the tick.
        (Fate::Well, last) => assert!(faults && last == Some(&BlockEvent::Failed(SequenceError::Backend))),
        (_, last) => assert_eq!(last, Some(&BlockEvent::Failed(SequenceError::Backend))),
    }
}

fn run(actions: &[Action], limits: EngineLimits, layers: usize) {
    let sequences = sequences(actions);
    let of_fate =
        |fate| sequences.iter().enumerate().filter(move |(_, s)| s.0 == fate).map(|(number, _)| number);
    let no_memory = of_fate(Fate::NoMemory).collect();
    let faults = of_fate(Fate::Fail).chain(of_fate(Fate::Panic)).next().is_some();
    let (permit, permits) = channel();
    let (seen, witnessed) = channel();
    let metrics = Arc::new(Metrics::new());
    let backend = Witness { seen, permits, no_memory, layers };
    let engine = start(backend, model(), limits.clone(), Arc::clone(&metrics)).unwrap();
    let mut readers: Vec<Option<Reader>> = Vec::new();
    for action in actions {
        match action {
            Action::Submit(some) => {
                let next = &sequences[readers.len()..readers.len() + some.len()];
                let requests = next.iter().map(|(_, request)| request.clone()).collect();
                readers.extend(engine.submit(requests, None).unwrap().into_iter().map(Some));
            }
            Action::Leave(number) => drop(readers.get_mut(*number).map(Option::take)),
            Action::Ticks(count) => (0..*count).for_each(|_| permit.send(()).unwrap()),
        }
    }
    drop((permit, engine));
    for (reader, (fate, request)) in readers.into_iter().zip(&sequences) {
        if let Some(reader) = reader {
            check_ending(reader, *fate, request, faults);
        }
    }
    check(witnessed, &limits, layers);
    let text = metrics.render();
    for name in ["sequences_running", "sequences_waiting", "kv_bytes_used"] {
        assert!(text.contains(&format!("\nevotoken_{name} 0\n")), "{text}");
    }
    let ends = text.lines().filter(|line| line.starts_with("evotoken_sequences_finished_total"));
    let ends: usize = ends.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum();
    assert_eq!(ends, sequences.len(), "each ends once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn any_schedule_frees_every_slot_and_ends_every_sequence_once(
        actions in actions(), slots in 1usize..7, canvases in 1usize..6, rows_per_tick in 1usize..300,
        layers in prop_oneof![1 => Just(1usize), 1 => 2usize..6],
    ) {
        let kv_bytes = canvases * 4 * UNIT * BYTES_PER_POSITION;
        run(&actions, EngineLimits { slots, kv_bytes, rows_per_tick, ..engine_limits() }, layers);
    }
}
