//! Steps over more rows than a tick may have: they are cut between layers, and others step in between.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use evotoken::engine::request::GenerateRequest;
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, SequenceError, start};
use evotoken::telemetry::metrics::Metrics;

use super::{answer, engine_limits, events, fake, model, request};

const LAYERS: usize = 4;

/// A model of four layers, ticks of 20 rows that wait for the test.
fn engine() -> (EngineHandle, Receiver<fake::Seen>, Sender<()>) {
    let (gate, ticks) = channel();
    let (backend, seen) = fake::FakeBackend::of_layers(LAYERS, Some(ticks));
    let limits = EngineLimits { rows_per_tick: 20, ..engine_limits() };
    (start(backend, model(), limits, Arc::new(Metrics::new())).unwrap(), seen, gate)
}

/// A first step of 64 rows: a layer of it is worth 16.
fn long(token: u32) -> GenerateRequest {
    request(&[token; 60], 4)
}

fn short() -> GenerateRequest {
    request(&[5], 4)
}

fn tokens(canvas: std::ops::Range<usize>) -> Vec<u32> {
    canvas.map(fake::token_at).collect()
}

#[test]
fn a_long_step_is_cut_and_others_step_in_between() {
    let (engine, seen, gate) = engine();
    drop(gate);
    let mut readers = engine.submit(vec![long(6), short()], None).unwrap();
    let of_short = answer(&events(readers.remove(1)));
    let of_long = answer(&events(readers.remove(0)));
    assert_eq!((of_short.0, of_short.2.nfe), (tokens(1..5), 4));
    assert_eq!((of_long.0, of_long.2.nfe), (tokens(60..64), 4));
    let turns: Vec<_> = seen.iter().filter(|s| !matches!(s, fake::Seen::Opened(_))).take(9).collect();
    let layer = |number| fake::Seen::Layers(number..number + 1);
    let tick = || fake::Seen::Tick(1);
    let expected = [tick(), layer(0), tick(), layer(1), tick(), layer(2), tick(), layer(3)];
    assert_eq!(turns[..8], expected);
    assert!(matches!(turns[8], fake::Seen::Closed(_)), "the short one is over: {turns:?}");
}

#[test]
fn a_long_step_alone_takes_a_tick_s_rows_at_a_time_and_the_next_one_waits_for_it() {
    let (engine, seen, gate) = engine();
    drop(gate);
    let readers = engine.submit(vec![long(6), long(7)], None).unwrap();
    for reader in readers {
        assert_eq!(answer(&events(reader)).0, tokens(60..64));
    }
    drop(engine);
    let layers: Vec<_> = seen
        .iter()
        .filter_map(|s| if let fake::Seen::Layers(layers) = s { Some(layers.start) } else { None })
        .collect();
    assert_eq!(layers, [0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn a_reader_that_leaves_ends_its_long_step_before_the_next_tick() {
    let (engine, seen, gate) = engine();
    let mut readers = engine.submit(vec![long(6), short()], None).unwrap();
    let fake::Seen::Opened(slot) = seen.recv().unwrap() else { panic!("a slot opens first") };
    gate.send(()).unwrap();
    while seen.recv().unwrap() != fake::Seen::Layers(0..1) {}
    drop(readers.remove(0));
    gate.send(()).unwrap();
    // It may have left before the second tick was planned, or in it.
    let mut next = seen.recv().unwrap();
    while matches!(next, fake::Seen::Tick(_) | fake::Seen::Layers(_)) {
        assert_ne!(next, fake::Seen::Layers(2..3), "it goes on without a reader");
        next = seen.recv().unwrap();
    }
    assert_eq!(next, fake::Seen::Closed(slot));
    drop(gate);
    assert_eq!(answer(&events(readers.remove(0))).0, tokens(1..5));
    drop(engine);
    assert!(seen.iter().all(|s| !matches!(s, fake::Seen::Layers(_))), "nobody is left with a long step");
}

#[test]
fn a_long_step_that_panics_fails_alone() {
    let (engine, _seen, gate) = engine();
    drop(gate);
    let mut readers = engine.submit(vec![long(fake::PANIC), short()], None).unwrap();
    assert_eq!(answer(&events(readers.remove(1))).0, tokens(1..5));
    let failed = events(readers.remove(0));
    assert_eq!(failed, [BlockEvent::Admitted, BlockEvent::Failed(SequenceError::Backend)]);
}
