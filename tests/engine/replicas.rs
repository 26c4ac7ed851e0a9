//! Several engines behind one queue.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Seen, Sender, channel};

use evotoken::engine::batch::{AdapterId, Backend, BackendError, SlotId, StepBatch, StepOutput};
use evotoken::engine::variant::Variant;
use evotoken::engine::{
    BlockEvent, EngineHandle, EngineLimits, ModelInfo, SequenceError, SubmitError, start_all,
};
use evotoken::telemetry::metrics::Metrics;
use proptest::prelude::*;

use super::batching::{EOS, MASK, drafts, holds, stored};
use super::fake::{self, FakeBackend};
use super::{answer, engine_limits, events, model, one, request};

/// The test's end of one engine.
struct End {
    seen: Seen<fake::Seen>,
    /// Dropped: no tick waits any more.
    gate: Option<Sender<()>>,
}

impl End {
    /// Slots that were opened since the last look.
    fn opened(&self) -> usize {
        self.seen.try_iter().filter(|seen| matches!(seen, fake::Seen::Opened(_))).count()
    }
}

/// So many engines whose ticks wait for the test.
fn gated(count: usize, limits: EngineLimits) -> (EngineHandle, Vec<End>, Arc<Metrics>) {
    let (mut backends, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (gate, ticks) = channel();
        let (backend, seen) = FakeBackend::new(Some(ticks));
        backends.push(backend);
        ends.push(End { seen, gate: Some(gate) });
    }
    let metrics = Arc::new(Metrics::new());
    (start_all(backends, model(), limits, Arc::clone(&metrics)).unwrap(), ends, metrics)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn an_answer_has_the_same_bits_from_any_of_one_to_three_engines(
        drafts in drafts(), engines in 1usize..4, slots in 1usize..9, budget in 16usize..400,
    ) {
        let served = |slots, rows_per_tick| {
            // Alone it is one engine.
            let count = if slots == 1 { 1 } else { engines };
            let limits = EngineLimits {
                slots, kv_bytes: 1 << 28, rows_per_tick, event_buffer: 256, ..engine_limits()
            };
            let backends = (0..count).map(|_| stored(false)).collect();
            let model = ModelInfo { mask_id: MASK, eos_ids: vec![EOS] };
            let engine = start_all(backends, model, limits, Arc::new(Metrics::new())).unwrap();
            (engine, vec![Variant::default()])
        };
        holds(served, &drafts, slots, budget)?;
    }
}

#[test]
fn a_burst_spreads_over_the_engines_and_one_that_is_busy_leaves_the_next_to_the_other() {
    let (engine, ends, _) = gated(2, engine_limits());
    let burst = engine.submit(vec![request(&[5], 8); 8], None).unwrap();
    for end in &ends {
        for _ in 0..4 {
            assert!(matches!(end.seen.recv().unwrap(), fake::Seen::Opened(_)), "half of the burst each");
        }
    }
    assert_eq!(ends.iter().map(End::opened).sum::<usize>(), 0, "and no more");
    drop(ends);
    burst.into_iter().for_each(|reader| drop(answer(&events(reader))));
}

#[test]
fn who_waits_is_taken_by_the_engine_that_is_free_first() {
    let (engine, mut ends, _) = gated(2, EngineLimits { slots: 1, ..engine_limits() });
    let running = engine.submit(vec![request(&[5], 4); 2], None).unwrap();
    for end in &ends {
        assert!(matches!(end.seen.recv().unwrap(), fake::Seen::Opened(_)));
    }
    let waiting: Vec<_> = (0..5).map(|_| one(&engine, request(&[6], 4))).collect();
    // One engine stands still; the other serves everybody who waits.
    ends[1].gate = None;
    waiting.into_iter().for_each(|reader| drop(answer(&events(reader))));
    assert_eq!((ends[0].opened(), ends[1].opened()), (0, 5));
    drop(ends);
    running.into_iter().for_each(|reader| drop(answer(&events(reader))));
}

#[test]
fn the_queue_s_places_are_those_of_all_engines() {
    let (engine, ends, _) = gated(2, EngineLimits { queue: 3, slots: 1, ..engine_limits() });
    let running = engine.submit(vec![request(&[5], 4); 2], None).unwrap();
    for end in &ends {
        assert!(matches!(end.seen.recv().unwrap(), fake::Seen::Opened(_)));
    }
    let waiting = engine.submit(vec![request(&[5], 4); 3], None).unwrap();
    let refused = engine.submit(vec![request(&[5], 4)], None).unwrap_err();
    assert_eq!(refused, SubmitError::QueueFull { capacity: 3 });
    drop(ends);
    running.into_iter().chain(waiting).for_each(|reader| drop(answer(&events(reader))));
}

#[test]
fn a_request_to_each_engine_is_answered_by_each() {
    let (engine, ends, _) = gated(3, engine_limits());
    let readers = engine.submit_to_each(&request(&[5], 4)).unwrap();
    for end in &ends {
        assert!(matches!(end.seen.recv().unwrap(), fake::Seen::Opened(_)));
    }
    drop(ends);
    assert_eq!(readers.len(), 3);
    readers.into_iter().for_each(|reader| drop(answer(&events(reader))));
}

#[test]
fn every_engine_counts_for_itself_and_the_queue_once() {
    let (engine, ends, metrics) = gated(2, engine_limits());
    drop(ends);
    let readers = engine.submit_to_each(&request(&[5], 4)).unwrap();
    readers.into_iter().for_each(|reader| drop(answer(&events(reader))));
    let text = metrics.render();
    for line in [
        "evotoken_tokens_total{engine=\"0\"} 4",
        "evotoken_tokens_total{engine=\"1\"} 4",
        "evotoken_sequences_running_limit{engine=\"1\"} 16",
        "evotoken_sequences_waiting 0",
        "evotoken_sequences_waiting_limit 64",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }
}

/// A backend that is told when adapters go, and may take its engine's thread with it then: nothing is caught there.
struct Mortal {
    number: usize,
    told: Sender<usize>,
    mortal: bool,
    gate: Option<Seen<()>>,
}

impl Backend for Mortal {
    fn bytes_per_position(&self) -> usize {
        10
    }

    fn open_slot(&mut self, _slot: SlotId, _canvas: usize) -> Result<(), BackendError> {
        Ok(())
    }

    fn close_slot(&mut self, _slot: SlotId) {}

    fn drop_adapter(&mut self, _adapter: AdapterId) {
        self.told.send(self.number).unwrap();
        assert!(!self.mortal, "the fake was asked to die");
    }

    fn step(&mut self, batch: &StepBatch) -> Result<StepOutput, BackendError> {
        if let Some(gate) = &self.gate {
            self.told.send(self.number).unwrap();
            // A dropped gate is an open one.
            let _ = gate.recv();
        }
        let mut output = StepOutput { top_k: batch.top_k, ..StepOutput::default() };
        for segment in &batch.segments {
            for position in segment.targets.clone() {
                let token = (fake::token_at(position), 0.5);
                let others = (1..batch.top_k as u32).map(|rank| (60 + rank, 0.01));
                output.push_row(token, std::iter::once(token).chain(others));
            }
        }
        Ok(output)
    }
}

#[test]
fn an_adapter_that_is_let_go_of_is_given_back_by_every_engine() {
    let (told, dropped) = channel();
    let backends =
        (0..3).map(|number| Mortal { number, told: told.clone(), mortal: false, gate: None }).collect();
    let engine = start_all(backends, model(), engine_limits(), Arc::new(Metrics::new())).unwrap();
    let (first, second) = (engine.new_adapter(), engine.new_adapter());
    assert_ne!(first.id(), second.id());
    drop(first);
    let engines: HashSet<usize> = (0..3).map(|_| dropped.recv().unwrap()).collect();
    assert_eq!(engines.len(), 3);
}

#[test]
fn an_engine_that_dies_takes_no_other_along() {
    let (told, _dropped) = channel();
    let backend = |number| Mortal { number, told: told.clone(), mortal: number == 0, gate: None };
    let backends = (0..2).map(backend).collect();
    let engine = start_all(backends, model(), engine_limits(), Arc::new(Metrics::new())).unwrap();
    drop(engine.new_adapter());
    // Until it is known that one is gone.
    while let Ok(readers) = engine.submit_to_each(&request(&[5], 4)) {
        readers.into_iter().for_each(|mut reader| while reader.blocking_recv().is_some() {});
    }
    let readers = engine.submit(vec![request(&[6], 4); 20], None).unwrap();
    readers.into_iter().for_each(|reader| drop(answer(&events(reader))));
}

#[tokio::test]
async fn when_all_engines_have_died_nobody_waits_for_ever() {
    let ((told, said), (permit, gate)) = (channel(), channel());
    let backends = vec![Mortal { number: 0, told, mortal: true, gate: Some(gate) }];
    let limits = EngineLimits { slots: 1, ..engine_limits() };
    let engine = start_all(backends, model(), limits, Arc::new(Metrics::new())).unwrap();
    let mut readers = engine.submit(vec![request(&[5], 4); 3], None).unwrap();
    // The first one runs, the others wait.
    said.recv().unwrap();
    drop(engine.new_adapter());
    drop(permit);
    engine.ended().await;
    let waiting = readers.split_off(1);
    let told = tokio::task::spawn_blocking(move || waiting.into_iter().map(events).collect::<Vec<_>>());
    for events in told.await.unwrap() {
        assert_eq!(events, [BlockEvent::Failed(SequenceError::Backend)]);
    }
    assert_eq!(engine.submit(vec![request(&[5], 4)], None).unwrap_err(), SubmitError::Stopping);
}

#[tokio::test]
async fn draining_and_stopping_end_all_engines() {
    for hard in [false, true] {
        let (engine, ends, _) = gated(3, EngineLimits { slots: 1, ..engine_limits() });
        let readers = engine.submit(vec![request(&[5], 40); 8], None).unwrap();
        if hard {
            engine.stop()
        } else {
            engine.stop_admitting()
        }
        assert_eq!(engine.submit(vec![request(&[5], 8)], None).unwrap_err(), SubmitError::Stopping);
        drop(ends);
        engine.ended().await;
        let all = tokio::task::spawn_blocking(move || readers.into_iter().map(events).collect::<Vec<_>>());
        for told in all.await.unwrap() {
            match told.last() {
                Some(BlockEvent::Failed(error)) if hard => assert_eq!(*error, SequenceError::Stopping),
                _ => drop(answer(&told)),
            }
        }
    }
}
