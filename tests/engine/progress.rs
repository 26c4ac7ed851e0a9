//! Steps that are told, with a scripted model that is sure of everything and with a real one.

use std::sync::Arc;

use evotoken::decode::{CacheMode, DecodeOptions, Method, Phase, Snapshot};
use evotoken::engine::reader::{STEP_BYTES_AHEAD, STEPS_AHEAD};
use evotoken::engine::request::{Draft, GenerateRequest, Limits};
use evotoken::engine::sampling::SamplingOptions;
use evotoken::engine::{BlockEvent, EngineLimits, FinishReason, ModelInfo, start};
use evotoken::telemetry::metrics::Metrics;

use super::batching;
use super::{answer, draft, empty, engine, engine_limits, events, fake, gated, one, request, request_limits};

fn watched(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    let decode = DecodeOptions {
        method: Some(Method::Evotoken),
        steps: Some(max_tokens),
        block_length: Some(4),
        cache: Some(CacheMode::Dual),
        ..DecodeOptions::default()
    };
    let sampling = SamplingOptions { progress: true, ..SamplingOptions::default() };
    draft(Draft { prompt: prompt.to_vec(), max_tokens, decode, sampling, ..empty() })
}

fn steps(events: &[BlockEvent]) -> Vec<(usize, &Snapshot)> {
    let step = |event| match event {
        &BlockEvent::Step { nfe, ref snapshot } => Some((nfe, &**snapshot)),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

#[test]
fn every_step_is_told_before_the_block_it_finishes() {
    let (engine, _) = engine(engine_limits());
    let events = events(one(&engine, watched(&[5, 6, 7], 6)));
    let order: Vec<char> = events
        .iter()
        .map(|event| match event {
            BlockEvent::Admitted => 'a',
            BlockEvent::Step { .. } => 's',
            BlockEvent::Block { .. } => 'b',
            BlockEvent::Finished { .. } => 'f',
            other => panic!("{other:?}"),
        })
        .collect();
    // Six steps over two blocks are three each, but the second block has two positions.
    assert_eq!(order.into_iter().collect::<String>(), "asssbssbf");
    let steps = steps(&events);
    assert_eq!(steps.iter().map(|(nfe, _)| *nfe).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let (_, first) = steps[0];
    assert_eq!((first.block, first.block_range.clone(), first.positions.clone()), (0, 0..4, 0..6));
    // Three steps decide two, one and one of four positions, the leftmost of equals.
    let (soft, open) = (Phase::Soft, Phase::SoftMask);
    assert_eq!(first.phases, [soft, soft, open, open, open, open]);
    assert_eq!(first.tokens, (3..9).map(fake::token_at).collect::<Vec<_>>());
    assert!(first.confidences.iter().all(|p| *p == 0.95));
    assert_eq!((first.top_k, first.candidates.len()), (3, 18));
    assert_eq!(first.candidates[..3], [(fake::token_at(3), 0.95), (3, 0.01), (4, 0.01)]);
    let (_, second) = steps[1];
    assert_eq!((second.positions.clone(), second.phases.clone()), (0..4, vec![soft, soft, soft, open]));
    assert_eq!(steps[2].1.phases, [Phase::Decoded; 4]);
    let (_, last) = steps[4];
    assert_eq!((last.block, last.block_range.clone(), last.positions.clone()), (1, 4..6, 4..6));
}

#[test]
fn watching_changes_no_answer_and_nobody_else_s() {
    let (engine, _seen, gate) = gated(engine_limits());
    let requests = vec![request(&[5, 6], 8), watched(&[5, 6], 8), request(&[7], 8)];
    let readers = engine.submit(requests, None).unwrap();
    drop(gate);
    let all: Vec<Vec<BlockEvent>> = readers.into_iter().map(events).collect();
    assert_eq!(answer(&all[0]), answer(&all[1]));
    assert_eq!(answer(&all[2]).2.tokens, 8);
    assert!(steps(&all[0]).is_empty() && steps(&all[2]).is_empty());
    assert_eq!(steps(&all[1]).len(), 8);
}

/// An answer of one step per position. A step of hard masks describes its block alone.
fn long(method: Method, max_tokens: usize, k_soft: usize) -> GenerateRequest {
    let decode = DecodeOptions {
        method: Some(method),
        steps: Some(max_tokens),
        block_length: Some(4),
        cache: Some(CacheMode::None),
        k_soft: Some(k_soft),
        ..DecodeOptions::default()
    };
    let sampling = SamplingOptions { progress: true, ..SamplingOptions::default() };
    let limits = Limits { max_canvas: 1200, max_new_tokens: 1200, ..request_limits() };
    GenerateRequest::new(Draft { prompt: vec![5], max_tokens, decode, sampling, ..empty() }, &limits).unwrap()
}

/// What is read of an answer by somebody who begins to read when it is over. The model knows no end-of-text.
fn read_late(request: GenerateRequest, event_buffer: usize) -> Vec<BlockEvent> {
    let (backend, seen) = fake::FakeBackend::new(None);
    let model = ModelInfo { eos_ids: Vec::new(), ..super::model() };
    let limits = EngineLimits { event_buffer, ..engine_limits() };
    let engine = start(backend, model, limits, Arc::new(Metrics::new())).unwrap();
    let lagging = one(&engine, request);
    drop(engine);
    while seen.recv().is_ok() {}
    events(lagging)
}

fn numbers(events: &[BlockEvent]) -> Vec<usize> {
    steps(events).iter().map(|(nfe, _)| *nfe).collect()
}

#[test]
fn a_long_answer_s_steps_wait_for_a_reader_that_lags() {
    // 400 steps, 100 blocks: more events than the buffer has room for, were steps counted in it.
    let found = read_late(long(Method::Mask, 400, 3), 102);
    let (ids, reason, progress) = answer(&found);
    assert_eq!((ids.len(), reason, progress.blocks), (400, FinishReason::Length, 100));
    assert_eq!(numbers(&found), (1..=400).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_lags_by_too_much_memory_loses_steps_and_no_blocks() {
    // Without a cache every step describes all positions that are left, with ten candidates each.
    let found = read_late(long(Method::Evotoken, 400, 10), 102);
    let (ids, reason, progress) = answer(&found);
    assert_eq!((ids.len(), reason, progress.blocks), (400, FinishReason::Length, 100));
    // A later one is shorter and may fit where the one before did not.
    let told = numbers(&found);
    assert_eq!(told[..10], (1..=10).collect::<Vec<_>>());
    assert!(told.len() < progress.nfe / 10, "{told:?}");
    let bytes: usize = steps(&found).iter().map(|(_, snapshot)| snapshot.bytes()).sum();
    let largest = steps(&found)[0].1.bytes();
    assert!((STEP_BYTES_AHEAD - largest..=STEP_BYTES_AHEAD).contains(&bytes), "{bytes}");
}

#[test]
fn a_reader_that_lags_by_too_many_steps_loses_steps_and_no_blocks() {
    let found = read_late(long(Method::Mask, 1100, 1), 300);
    let (ids, _, progress) = answer(&found);
    assert_eq!((ids.len(), progress.nfe), (1100, 1100));
    assert_eq!(numbers(&found), (1..=STEPS_AHEAD).collect::<Vec<_>>());
}

#[test]
fn a_lagging_reader_is_given_up_at_the_same_block_whether_it_watches_or_not() {
    let count = |request: GenerateRequest| {
        let (engine, seen) = engine(EngineLimits { event_buffer: 4, ..engine_limits() });
        let mut reader = one(&engine, request);
        drop(engine);
        while seen.recv().is_ok() {}
        let mut found = Vec::new();
        while let Some(event) = reader.blocking_recv() {
            found.push(event);
        }
        found.iter().filter(|event| matches!(event, BlockEvent::Block { .. })).count()
    };
    assert_eq!(count(watched(&[5], 40)), 3);
    assert_eq!(count(request(&[5], 40)), 3);
}

fn real(method: Method, seed: u64, progress: bool) -> GenerateRequest {
    let limits = Limits {
        vocab: batching::VOCAB,
        mask_id: batching::MASK,
        eos_ids: Vec::new(),
        max_canvas: 100,
        max_prompt_tokens: 100,
        max_new_tokens: 100,
        max_stop_strings: 0,
        max_scored_tokens: 0,
    };
    let decode = DecodeOptions {
        method: Some(method),
        steps: Some(8),
        block_length: Some(8),
        ..DecodeOptions::default()
    };
    let sampling = SamplingOptions { progress, ..SamplingOptions::default() };
    let prompt = vec![5, 6 + seed as u32, 7];
    let draft = Draft { prompt, max_tokens: 16, decode, temperature: 0.7, sampling, seed, ..empty() };
    GenerateRequest::new(draft, &limits).unwrap()
}

#[test]
fn revisions_are_shown_and_what_is_shown_last_is_the_answer() {
    let model = ModelInfo { mask_id: batching::MASK, eos_ids: Vec::new() };
    let engine = start(batching::backend(), model, engine_limits(), Arc::new(Metrics::new())).unwrap();
    let mut revisions = 0;
    for method in [Method::Mask, Method::Evotoken] {
        for seed in 0..12 {
            let found = events(one(&engine, real(method, seed, true)));
            let (ids, _, progress) = answer(&found);
            assert_eq!((ids.clone(), progress), {
                let (ids, _, progress) = answer(&events(one(&engine, real(method, seed, false))));
                (ids, progress)
            });
            let steps = steps(&found);
            assert_eq!(steps.len(), progress.nfe);
            let shown: usize = steps.iter().map(|(_, snapshot)| snapshot.revised.len()).sum();
            assert_eq!(shown, progress.revisions);
            revisions += shown;
            for (_, snapshot) in steps {
                let Snapshot { block_range, positions, phases, tokens, candidates, .. } = snapshot;
                assert_eq!(positions.start, block_range.start);
                assert_eq!((phases.len(), tokens.len()), (positions.len(), positions.len()));
                assert_eq!(candidates.len(), 3 * positions.len());
                assert!(snapshot.revised.iter().all(|position| block_range.contains(position)));
                let of_block = block_range.len();
                if phases[..of_block].iter().all(|phase| *phase == Phase::Decoded) {
                    assert_eq!(tokens[..of_block], ids[block_range.clone()]);
                }
            }
        }
    }
    assert!(revisions > 0);
}
