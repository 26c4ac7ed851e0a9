//! Batched equals alone, with a real model.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Attention, Boundary, CacheMode, DecodeOptions, Method, ScoringRule, Snapshot, State};
use evotoken::engine::batch::{Backend, BackendError, SlotId, StepBatch, StepOutput};
use evotoken::engine::request::{Draft, GenerateRequest, Limits, PromptEcho};
use evotoken::engine::sampling::SamplingOptions;
use evotoken::engine::variant::Variant;
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, ModelInfo, start};
use evotoken::model::{ModelConfig, ModelSource};
use evotoken::telemetry::metrics::Metrics;
use proptest::prelude::*;

pub const MASK: u32 = 101;
pub const EOS: u32 = 1;
pub const VOCAB: usize = 160;

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub fn backend() -> CandleBackend {
    stored(false)
}

/// The same model, its weights stored in bf16 or in f32.
pub fn stored(bf16: bool) -> CandleBackend {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("llada-tiny");
    std::fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
    let weights = candle_core::safetensors::load(model.join("model.safetensors"), &Device::Cpu).unwrap();
    let dtype = if bf16 { DType::BF16 } else { DType::F32 };
    let weights: HashMap<_, _> =
        weights.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap())).collect();
    candle_core::safetensors::save(&weights, folder.path().join("model.safetensors")).unwrap();
    CandleBackend::load(&ModelSource::folder(folder.path()), DeviceChoice::Cpu).unwrap()
}

pub fn engine(backend: CandleBackend, slots: usize, rows_per_tick: usize) -> EngineHandle {
    let model = ModelInfo { mask_id: MASK, eos_ids: vec![EOS] };
    let limits =
        EngineLimits { slots, kv_bytes: 1 << 28, rows_per_tick, event_buffer: 256, ..super::engine_limits() };
    start(backend, model, limits, Arc::new(Metrics::new())).unwrap()
}

/// What may be asked for beside decoding, everything at random.
fn wishes() -> impl Strategy<Value = SamplingOptions> {
    let bias = proptest::collection::vec((0..VOCAB as u32, -20.0f64..20.0), 0..6);
    let bounds = (proptest::option::of(0usize..24), any::<bool>());
    let filters = (
        proptest::option::of(0.0f64..1.0),
        proptest::option::of(-1i64..12),
        proptest::option::of(0.0f64..0.5),
    );
    let penalties = (
        proptest::option::of(0.5f64..2.0),
        proptest::option::of(-2.0f64..2.0),
        proptest::option::of(-2.0f64..2.0),
    );
    let reports = (proptest::option::of(0usize..8), any::<bool>());
    let all = (bounds, bias, filters, penalties, reports);
    all.prop_map(|(bounds, logit_bias, filters, penalties, (logprobs, progress))| {
        let (min_tokens, ignore_eos) = bounds;
        let (top_p, top_k, min_p) = filters;
        let (repetition_penalty, frequency_penalty, presence_penalty) = penalties;
        SamplingOptions {
            min_tokens,
            ignore_eos,
            logit_bias,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            logprobs,
            progress,
        }
    })
}

fn echoes() -> impl Strategy<Value = PromptEcho> {
    prop_oneof![
        Just(PromptEcho::Off),
        Just(PromptEcho::Text),
        Just(PromptEcho::Scored(ScoringRule::Chain)),
        Just(PromptEcho::Scored(ScoringRule::Pseudo)),
    ]
}

/// Requests of any kind, some with a rule and a suffix, which not all of them can have: [`checked`] leaves those out.
pub fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let one = (
        proptest::collection::vec(2u32..100, 1..30),
        1usize..24,
        prop_oneof![
            Just(Method::Mask),
            Just(Method::Evotoken),
            Just(Method::SoftMask),
            Just(Method::SoftToken)
        ],
        prop_oneof![Just(CacheMode::None), Just(CacheMode::Prefix), Just(CacheMode::Dual)],
        1usize..9,
        prop_oneof![Just(None), (0.05f64..1.0).prop_map(Some)],
        prop_oneof![Just(0.0), Just(0.8)],
        any::<u64>(),
        (wishes(), echoes(), proptest::collection::vec(2u32..100, 0..6)),
    );
    let one = one.prop_map(
        |(
            prompt,
            max_tokens,
            method,
            cache,
            block_length,
            threshold,
            temperature,
            seed,
            (wishes, echo, suffix),
        )| {
            let decode = DecodeOptions {
                method: Some(method),
                steps: threshold.is_none().then(|| max_tokens.div_ceil(block_length) + max_tokens / 2),
                threshold,
                block_length: Some(block_length),
                cache: Some(cache),
                boundary: Some(if seed % 2 == 0 { Boundary::Hard } else { Boundary::Lagged }),
                ..DecodeOptions::default()
            };
            let sampling =
                SamplingOptions { min_tokens: wishes.min_tokens.map(|n| n.min(max_tokens)), ..wishes };
            let stop = vec![];
            Draft {
                variant: Variant::default(),
                prompt,
                max_tokens,
                suffix,
                echo,
                decode,
                temperature,
                sampling,
                seed,
                choice: 0,
                stop,
                guide: (seed % 3 < 2).then(|| super::guided::guide(seed as usize % 2)),
            }
        },
    );
    proptest::collection::vec(one, 2..17)
}

/// What the golden models can take.
pub fn limits() -> Limits {
    Limits {
        vocab: VOCAB,
        mask_id: MASK,
        eos_ids: vec![EOS],
        max_canvas: 512,
        max_prompt_tokens: 512,
        max_new_tokens: 512,
        max_stop_strings: 0,
        max_scored_tokens: 512,
    }
}

/// The request of a draft, for one of these variants. Not every length can satisfy a rule, and not every variant fills gaps.
pub fn checked(draft: &Draft, variants: &[Variant]) -> GenerateRequest {
    let limits = limits();
    let variant = variants[(draft.seed / 7) as usize % variants.len()].clone();
    let suffix = if variant.attention == Attention::Full { draft.suffix.clone() } else { vec![] };
    let draft = Draft { variant, suffix, ..draft.clone() };
    GenerateRequest::new(draft.clone(), &limits)
        .or_else(|_| GenerateRequest::new(Draft { guide: None, ..draft }, &limits))
        .unwrap()
}

/// What a reader was told, and beside it the steps that it watched.
fn told(events: Vec<BlockEvent>) -> (Vec<BlockEvent>, BTreeMap<usize, Snapshot>) {
    let (mut others, mut steps) = (Vec::new(), BTreeMap::new());
    for event in events {
        match event {
            BlockEvent::Step { nfe, snapshot } => drop(steps.insert(nfe, *snapshot)),
            other => others.push(other),
        }
    }
    (others, steps)
}

/// A request gets its own answer alone and in a crowd, whatever arrives with it, on how many slots and however few rows a
/// tick may have. `served` makes an engine, and says for which variants.
pub fn holds(
    served: impl Fn(usize, usize) -> (EngineHandle, Vec<Variant>),
    drafts: &[Draft],
    slots: usize,
    budget: usize,
) -> Result<(), TestCaseError> {
    let (alone, variants) = served(1, 1 << 16);
    let one = |draft| super::events(super::one(&alone, checked(draft, &variants)));
    let alone: Vec<_> = drafts.iter().map(one).collect();
    let (crowd, variants) = served(slots, budget);
    let requests = drafts.iter().map(|draft| checked(draft, &variants)).collect();
    let readers = crowd.submit(requests, None).unwrap();
    let together: Vec<_> = readers.into_iter().map(super::events).collect();
    for (alone, together) in std::iter::zip(alone, together) {
        let ((alone, watched), (together, seen)) = (told(alone), told(together));
        prop_assert_eq!(alone, together);
        // Of two readers either may have missed a step.
        for (nfe, snapshot) in seen {
            prop_assert!(watched.get(&nfe).is_none_or(|other| *other == snapshot), "step {}", nfe);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn a_batched_answer_is_the_answer_alone(
        drafts in drafts(), slots in 1usize..17, budget in 16usize..400, bf16 in any::<bool>(),
    ) {
        let served = |slots, budget| (engine(stored(bf16), slots, budget), vec![Variant::default()]);
        holds(served, &drafts, slots, budget)?;
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

/// The first step of prompts, in one tick.
pub fn first_steps(backend: &mut CandleBackend, prompts: &[&[u32]]) -> (usize, StepOutput) {
    let params =
        DecodeOptions { block_length: Some(4), ..DecodeOptions::default() }.resolve(8, VOCAB).unwrap();
    let mut batch = StepBatch::default();
    for (index, prompt) in (0..).zip(prompts) {
        let slot = SlotId { index, generation: 0 };
        let state = State::new(prompt, 8, params, Attention::Full, MASK);
        backend.open_slot(slot, prompt.len() + 8).unwrap();
        batch.push_step(&state, &state.plan(), slot, None);
    }
    (batch.needed() / prompts.len(), backend.step(&batch).unwrap())
}

#[test]
fn a_step_that_is_cut_between_layers_gives_the_same_numbers_to_the_bit() {
    for (family, mask) in [("llada-tiny", MASK), ("dream-tiny", 140)] {
        let source = ModelSource::folder(fixture(family));
        let load = || CandleBackend::load(&source, DeviceChoice::Cpu).unwrap();
        let (mut whole, mut cut) = (load(), load());
        let params = DecodeOptions { block_length: Some(4), ..DecodeOptions::default() };
        let params = params.resolve(8, VOCAB).unwrap();
        let mut step = |prompt: &[u32], index| {
            let slot = SlotId { index, generation: 0 };
            let state = State::new(prompt, 8, params, Attention::Full, mask);
            let mut batch = StepBatch::default();
            batch.push_step(&state, &state.plan(), slot, None);
            for backend in [&mut whole, &mut cut] {
                backend.open_slot(slot, prompt.len() + 8).unwrap();
            }
            batch
        };
        let (long, other) = (step(&[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], 0), step(&[20, 21], 1));
        let expected = (whole.step(&long).unwrap(), whole.step(&other).unwrap());
        assert_eq!(cut.layers(), 3);
        assert!(cut.step_layers(&long, 0..1).unwrap().is_none());
        let of_other = cut.step(&other).unwrap();
        let of_long = cut.step_layers(&long, 1..3).unwrap().unwrap();
        assert_eq!((of_long, of_other), expected, "{family}");
        assert!(cut.step_layers(&long, 1..3).is_err(), "it is over");
        assert!(cut.step_layers(&long, 0..2).unwrap().is_none());
        cut.close_slot(long.segments[0].slot);
        assert!(cut.step_layers(&long, 2..3).is_err(), "its slot is closed");
    }
}

#[test]
fn weights_that_are_no_numbers_spoil_only_the_sequences_that_read_them() {
    let config = ModelConfig::from_json(&std::fs::read(fixture("llada-tiny/config.json")).unwrap()).unwrap();
    let weights =
        candle_core::safetensors::load(fixture("llada-tiny/model.safetensors"), &Device::Cpu).unwrap();
    let mut weights: BTreeMap<String, Tensor> = weights.into_iter().collect();
    let table = weights.get_mut("model.transformer.wte.weight").unwrap();
    let width = table.dim(1).unwrap();
    let nan = Tensor::full(f32::NAN, (1, width), &Device::Cpu).unwrap();
    // Token 50.
    let parts = [table.narrow(0, 0, 50).unwrap(), nan, table.narrow(0, 51, VOCAB - 51).unwrap()];
    *table = Tensor::cat(&parts, 0).unwrap();
    let mut spoiled = CandleBackend::from_tensors(config, &weights, DeviceChoice::Cpu).unwrap();
    let prompts: [&[u32]; 3] = [&[5, 6, 7], &[8, 50], &[9, 10, 11, 12]];
    let (rows, output) = first_steps(&mut spoiled, &prompts);
    let (_, expected) = first_steps(&mut backend(), &prompts);
    assert_eq!(
        output.faults.iter().map(|(row, _)| *row).collect::<Vec<_>>(),
        (rows..2 * rows).collect::<Vec<_>>()
    );
    assert!(output.faults[0].1.contains("NaN"), "{:?}", output.faults[0]);
    for start in [0, 2 * rows] {
        assert_eq!(output.rows(start, rows).candidates, expected.rows(start, rows).candidates);
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error_and_holds_nothing() {
    let mut backend = backend();
    let (slot, canvas) = (SlotId { index: 0, generation: 0 }, 1 << 45);
    let bytes = backend.bytes_per_position() * canvas;
    let refused = backend.open_slot(slot, canvas);
    assert!(
        matches!(refused, Err(BackendError::OutOfMemory { bytes: asked }) if asked == bytes),
        "{refused:?}"
    );
    backend.open_slot(slot, 16).unwrap();
}
