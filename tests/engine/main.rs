//! The engine: admission, slots, endings, faults, and that a sequence does not depend on its neighbours.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod adapters;
mod batching;
mod content;
mod fake;
mod guided;
mod infilling;
mod long;
mod prefix;
mod prefix_schedules;
mod progress;
mod replicas;
mod schedules;
mod scoring;
mod shared;

use std::sync::Arc;
use std::sync::mpsc::{Receiver as Seen, Sender, channel};
use std::time::{Duration, Instant};

use evotoken::decode::{CacheMode, DecodeOptions, Method};
use evotoken::engine::Reader;
use evotoken::engine::request::{Draft, GenerateRequest, Limits, PromptEcho};
use evotoken::engine::{
    BlockEvent, EngineHandle, EngineLimits, FinishReason, ModelInfo, Progress, SequenceError, SubmitError,
    start,
};
use evotoken::telemetry::metrics::Metrics;
use fake::FakeBackend;

fn engine_limits() -> EngineLimits {
    EngineLimits {
        queue: 64,
        slots: 16,
        kv_bytes: 1 << 24,
        prefix_cache_bytes: 0,
        rows_per_tick: 1 << 16,
        event_buffer: 64,
    }
}

fn model() -> ModelInfo {
    ModelInfo { mask_id: fake::MASK, eos_ids: vec![fake::EOS] }
}

fn engine(limits: EngineLimits) -> (EngineHandle, Seen<fake::Seen>) {
    let (backend, seen) = FakeBackend::new(None);
    (start(backend, model(), limits, Arc::new(Metrics::new())).unwrap(), seen)
}

/// An engine whose ticks wait for the test.
fn gated(limits: EngineLimits) -> (EngineHandle, Seen<fake::Seen>, Sender<()>) {
    let (gate, ticks) = channel();
    let (backend, seen) = FakeBackend::new(Some(ticks));
    (start(backend, model(), limits, Arc::new(Metrics::new())).unwrap(), seen, gate)
}

fn request(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    let decode = DecodeOptions {
        method: Some(Method::Evotoken),
        steps: Some(max_tokens),
        block_length: Some(4),
        cache: Some(CacheMode::Dual),
        ..DecodeOptions::default()
    };
    draft(Draft { prompt: prompt.to_vec(), max_tokens, decode, ..empty() })
}

fn empty() -> Draft {
    Draft::new(vec![], 0)
}

fn request_limits() -> Limits {
    Limits { max_scored_tokens: 100, ..Limits::of_model(&model(), fake::VOCAB, 1000) }
}

fn draft(draft: Draft) -> GenerateRequest {
    GenerateRequest::new(draft, &request_limits()).unwrap()
}

/// Everything a sequence says. Panics unless it ends with exactly one last word.
fn events(mut reader: Reader) -> Vec<BlockEvent> {
    let mut all = Vec::new();
    while let Some(event) = reader.blocking_recv() {
        all.push(event);
    }
    let last = |e: &BlockEvent| matches!(e, BlockEvent::Finished { .. } | BlockEvent::Failed(_));
    assert_eq!(all.iter().filter(|e| last(e)).count(), 1, "{all:?}");
    assert!(all.last().is_some_and(last), "{all:?}");
    all
}

/// The answer's tokens and how it ended.
fn answer(events: &[BlockEvent]) -> (Vec<u32>, FinishReason, Progress) {
    let blocks =
        events.iter().filter_map(|e| if let BlockEvent::Block { ids, .. } = e { Some(ids) } else { None });
    let ids = blocks.flatten().copied().collect();
    match events.last() {
        Some(BlockEvent::Finished { reason, progress }) => (ids, *reason, *progress),
        other => panic!("{other:?}"),
    }
}

fn one(engine: &EngineHandle, request: GenerateRequest) -> Reader {
    engine.submit(vec![request], None).unwrap().remove(0)
}

#[test]
fn an_answer_comes_block_by_block() {
    let (engine, _) = engine(engine_limits());
    let events = events(one(&engine, request(&[5, 6, 7], 10)));
    assert_eq!(events[0], BlockEvent::Admitted);
    let blocks: Vec<usize> = events
        .iter()
        .filter_map(|e| if let BlockEvent::Block { ids, .. } = e { Some(ids.len()) } else { None })
        .collect();
    assert_eq!(blocks, [4, 4, 2]);
    let (ids, reason, progress) = answer(&events);
    assert_eq!(ids, (3..13).map(fake::token_at).collect::<Vec<_>>());
    assert_eq!(reason, FinishReason::Length);
    // 10 steps over 3 blocks are 4, 3 and 3, but the last block has only 2 positions.
    assert_eq!(progress, Progress { nfe: 9, blocks: 3, tokens: 10, ..Progress::default() });
}

#[test]
fn end_of_text_ends_the_answer_at_its_block_and_counts_as_one_token() {
    let (engine, _) = engine(engine_limits());
    let prompt = vec![5; fake::EOS_EVERY - 5];
    let (ids, reason, progress) = answer(&events(one(&engine, request(&prompt, 40))));
    assert_eq!(ids.len(), 5);
    assert_eq!(reason, FinishReason::Stop);
    assert_eq!((progress.tokens, progress.blocks), (6, 2));
}

#[test]
fn a_request_enters_the_queue_whole_or_not_at_all() {
    let (engine, seen, gate) = gated(EngineLimits { queue: 4, slots: 1, ..engine_limits() });
    let running = one(&engine, request(&[5], 4));
    assert!(matches!(seen.recv().unwrap(), fake::Seen::Opened(_)));
    let three = engine.submit(vec![request(&[5], 4); 3], None).unwrap();
    let refused = engine.submit(vec![request(&[5], 4); 2], None).unwrap_err();
    assert_eq!(refused, SubmitError::QueueFull { capacity: 4 });
    let last = one(&engine, request(&[5], 4));
    drop(gate);
    for reader in three.into_iter().chain([running, last]) {
        answer(&events(reader));
    }
}

#[test]
fn a_dropped_reader_frees_its_slot_for_the_next_request() {
    let (engine, seen, gate) = gated(EngineLimits { slots: 1, ..engine_limits() });
    let first = one(&engine, request(&[5], 400));
    let second = one(&engine, request(&[6], 4));
    let fake::Seen::Opened(slot) = seen.recv().unwrap() else { panic!("a slot opens first") };
    drop(first);
    gate.send(()).unwrap();
    assert_eq!(seen.recv().unwrap(), fake::Seen::Tick(1));
    assert_eq!(seen.recv().unwrap(), fake::Seen::Closed(slot), "before the next tick");
    let fake::Seen::Opened(next) = seen.recv().unwrap() else { panic!("the next request starts") };
    assert_eq!(next.index, slot.index);
    assert_ne!(next.generation, slot.generation);
    drop(gate);
    answer(&events(second));
}

#[test]
fn a_reader_that_does_not_read_is_cancelled_and_others_go_on() {
    let (engine, seen) = engine(EngineLimits { event_buffer: 4, ..engine_limits() });
    let mut slow = one(&engine, request(&[5], 400));
    let fake::Seen::Opened(slot) = seen.recv().unwrap() else { panic!("a slot opens first") };
    answer(&events(one(&engine, request(&[6], 4))));
    while seen.recv().unwrap() != fake::Seen::Closed(slot) {}
    answer(&events(one(&engine, request(&[6], 8))));
    let mut got = Vec::new();
    while let Some(event) = slow.blocking_recv() {
        got.push(event);
    }
    assert!(got.len() <= 5, "{} events in a buffer of 4", got.len());
    assert!(!got.iter().any(|e| matches!(e, BlockEvent::Finished { .. })));
}

#[test]
fn a_failed_or_panicking_tick_fails_its_sequences_and_the_engine_lives_on() {
    let (engine, _) = engine(engine_limits());
    for marker in [fake::FAIL, fake::PANIC] {
        let events = events(one(&engine, request(&[marker], 8)));
        assert_eq!(events, [BlockEvent::Admitted, BlockEvent::Failed(SequenceError::Backend)]);
        answer(&self::events(one(&engine, request(&[5], 8))));
    }
}

#[test]
fn a_panic_of_the_engine_itself_fails_its_sequences_and_the_engine_lives_on() {
    let (engine, _) = engine(engine_limits());
    let failed = events(one(&engine, request(&[fake::TOO_FEW_ROWS], 8)));
    assert_eq!(failed, [BlockEvent::Admitted, BlockEvent::Failed(SequenceError::Backend)]);
    answer(&events(one(&engine, request(&[5], 8))));
}

#[test]
fn a_sequence_of_which_the_model_makes_no_numbers_fails_alone() {
    let (engine, _seen, gate) = gated(engine_limits());
    let requests = vec![request(&[5], 8), request(&[fake::NO_NUMBERS], 8), request(&[6], 8)];
    let mut readers = engine.submit(requests, None).unwrap();
    drop(gate);
    let spoiled = readers.remove(1);
    assert_eq!(events(spoiled), [BlockEvent::Admitted, BlockEvent::Failed(SequenceError::Backend)]);
    for reader in readers {
        assert_eq!(answer(&events(reader)).2.tokens, 8);
    }
}

#[test]
fn a_slot_without_memory_fails_its_sequence_alone() {
    let (engine, _) = engine(engine_limits());
    let poor = one(&engine, request(&vec![5; fake::NO_MEMORY_CANVAS - 4], 4));
    assert_eq!(events(poor), [BlockEvent::Failed(SequenceError::OutOfMemory)]);
    answer(&events(one(&engine, request(&[5], 8))));
}

#[test]
fn a_canvas_that_can_never_fit_is_refused_and_one_that_cannot_fit_now_waits() {
    let (engine, _) = engine(EngineLimits { kv_bytes: 200, ..engine_limits() });
    let refused = engine.submit(vec![request(&[5], 20)], None).unwrap_err();
    assert_eq!(refused, SubmitError::NeverFits { needed: 210, limit: 200 });
    let readers = engine.submit(vec![request(&[5], 15); 3], None).unwrap();
    for reader in readers {
        answer(&events(reader));
    }
}

#[test]
fn a_passed_deadline_ends_waiting_and_running_sequences() {
    let (engine, _seen, gate) = gated(EngineLimits { slots: 1, ..engine_limits() });
    let deadline = Some(Instant::now() + Duration::from_millis(30));
    let readers = engine.submit(vec![request(&[5], 8); 2], deadline).unwrap();
    std::thread::sleep(Duration::from_millis(40));
    drop(gate);
    for reader in readers {
        assert_eq!(events(reader).last(), Some(&BlockEvent::Failed(SequenceError::Timeout)));
    }
}

#[tokio::test]
async fn draining_finishes_what_runs_and_refuses_what_comes() {
    let (engine, _seen, gate) = gated(engine_limits());
    let running = one(&engine, request(&[5], 8));
    engine.stop_admitting();
    assert_eq!(engine.submit(vec![request(&[5], 8)], None).unwrap_err(), SubmitError::Stopping);
    drop(gate);
    engine.ended().await;
    let all = tokio::task::spawn_blocking(move || events(running)).await.unwrap();
    answer(&all);
}

#[tokio::test]
async fn a_hard_stop_tells_every_open_sequence() {
    let (engine, _seen, gate) = gated(EngineLimits { slots: 1, ..engine_limits() });
    let readers = engine.submit(vec![request(&[5], 400); 2], None).unwrap();
    engine.stop();
    drop(gate);
    engine.ended().await;
    for reader in readers {
        let all = tokio::task::spawn_blocking(move || events(reader)).await.unwrap();
        assert_eq!(all.last(), Some(&BlockEvent::Failed(SequenceError::Stopping)));
    }
}

#[test]
fn a_dropped_handle_ends_the_engine_once_its_work_is_done() {
    let (engine, seen) = engine(engine_limits());
    let reader = one(&engine, request(&[5], 8));
    drop(engine);
    answer(&events(reader));
    // The thread drops its backend, and with it the sender.
    while seen.recv().is_ok() {}
}

#[test]
fn answers_without_room_hold_no_more_memory_than_is_allowed() {
    // Each takes 50 positions of 10 bytes; two fit.
    let (engine, seen) = engine(EngineLimits { kv_bytes: 1000, ..engine_limits() });
    let echoed = || draft(Draft { prompt: vec![5; 50], echo: PromptEcho::Text, ..empty() });
    let readers = engine.submit((0..20).map(|_| echoed()).collect(), None).unwrap();
    readers.into_iter().for_each(|reader| drop(events(reader)));
    drop(engine);
    let (mut open, mut opened) = (0, 0);
    for event in seen {
        match event {
            fake::Seen::Opened(_) => (open, opened) = (open + 1, opened + 1),
            fake::Seen::Closed(_) => open -= 1,
            other => panic!("nothing is to be decided: {other:?}"),
        }
        assert!(open <= 2, "{open} slots of two");
    }
    assert_eq!((open, opened), (0, 20));
}
