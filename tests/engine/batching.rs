//! Batched equals alone, with a real model.

use std::path::Path;
use std::sync::Arc;

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Attention, Boundary, CacheMode, DecodeOptions, Method, State};
use evotoken::engine::batch::{Backend, SlotId, StepBatch};
use evotoken::engine::{EngineHandle, EngineLimits, ModelInfo, start};
use evotoken::model::ModelSource;
use evotoken::service::request::{Draft, GenerateRequest, Limits};
use evotoken::telemetry::metrics::Metrics;
use proptest::prelude::*;

const MASK: u32 = 101;
const EOS: u32 = 1;
const VOCAB: usize = 160;

fn backend() -> CandleBackend {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llada-tiny");
    CandleBackend::load(&ModelSource::folder(folder), None, DeviceChoice::Cpu).unwrap()
}

fn engine(slots: usize, rows_per_tick: usize) -> EngineHandle {
    let model = ModelInfo { mask_id: MASK, eos_ids: vec![EOS], attention: Attention::Full };
    let limits = EngineLimits { queue: 64, slots, kv_bytes: 1 << 28, rows_per_tick, event_buffer: 256 };
    start(backend(), model, limits, Arc::new(Metrics::new())).unwrap()
}

fn requests() -> impl Strategy<Value = Vec<GenerateRequest>> {
    let one = (
        proptest::collection::vec(2u32..100, 1..30),
        1usize..24,
        prop_oneof![Just(Method::Mask), Just(Method::Evotoken)],
        prop_oneof![Just(CacheMode::None), Just(CacheMode::Prefix), Just(CacheMode::Dual)],
        1usize..9,
        prop_oneof![Just(None), (0.05f64..1.0).prop_map(Some)],
        prop_oneof![Just(0.0), Just(0.8)],
        any::<u64>(),
    );
    let one =
        one.prop_map(|(prompt, max_tokens, method, cache, block_length, threshold, temperature, seed)| {
            let decode = DecodeOptions {
                method: Some(method),
                steps: threshold.is_none().then(|| max_tokens.div_ceil(block_length) + max_tokens / 2),
                threshold,
                block_length: Some(block_length),
                cache: Some(cache),
                boundary: Some(if seed % 2 == 0 { Boundary::Hard } else { Boundary::Lagged }),
                ..DecodeOptions::default()
            };
            let limits = Limits {
                vocab: VOCAB,
                mask_id: MASK,
                eos_ids: vec![EOS],
                max_canvas: 512,
                max_prompt_tokens: 512,
                max_new_tokens: 512,
                max_stop_strings: 0,
            };
            let draft = Draft { prompt, max_tokens, decode, temperature, seed, choice: 0, stop: vec![] };
            GenerateRequest::new(draft, &limits).unwrap()
        });
    proptest::collection::vec(one, 2..9)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_batched_answer_is_the_answer_alone(requests in requests(), slots in 1usize..9, budget in 16usize..200) {
        let alone = engine(1, 1 << 16);
        let alone: Vec<_> =
            requests.iter().map(|r| super::answer(&super::events(super::one(&alone, r.clone())))).collect();
        let crowd = engine(slots, budget);
        let readers = crowd.submit(requests, None).unwrap();
        let together: Vec<_> = readers.into_iter().map(|r| super::answer(&super::events(r))).collect();
        prop_assert_eq!(alone, together);
    }
}

/// One tick of `count` sequences in their first step; returns how often a weight matrix was applied, and the output of
/// the first sequence.
fn tick(count: u32) -> (u64, Vec<(u32, f32)>) {
    let mut backend = backend();
    let params =
        DecodeOptions { block_length: Some(8), ..DecodeOptions::default() }.resolve(16, VOCAB).unwrap();
    let mut batch = StepBatch::default();
    let mut needed = 0;
    for index in 0..count {
        let slot = SlotId { index, generation: 0 };
        let prompt: Vec<u32> = (0..5 + index).map(|i| 2 + i * 3).collect();
        let state = State::new(&prompt, 16, params, Attention::Full, MASK);
        backend.open_slot(slot, prompt.len() + 16).unwrap();
        let plan = state.plan();
        if index == 0 {
            needed = plan.needed();
        }
        batch.push_step(&state, &plan, slot, None);
    }
    let before = backend.linear_calls();
    let output = backend.step(&batch).unwrap();
    (backend.linear_calls() - before, output.rows(0, needed).candidates.to_vec())
}

#[test]
fn a_tick_reads_every_weight_once_whatever_the_number_of_sequences() {
    let (calls, candidates) = tick(1);
    let (calls_of_8, candidates_of_8) = tick(8);
    // 7 matrices in each of 3 layers, and the head.
    assert_eq!(calls, 22);
    assert_eq!(calls_of_8, calls);
    assert!(candidates == candidates_of_8, "the first sequence's numbers differ in company");
}
