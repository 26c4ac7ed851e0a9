//! Ticks by the operations of a device, on the CPU: what a tick asks of the device, and that it says the same as the own
//! kernels, whatever pieces of the pool its slots are.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use evotoken::backend::device::{DeviceChoice, Placement};
use evotoken::backend::{CandleBackend, PoolChoice};
use evotoken::decode::{Attention, CacheMode, DecodeOptions, DecodeParams, Method, State};
use evotoken::engine::batch::{AdapterId, Backend, BackendError, Sampling, SlotId, StepBatch, StepOutput};
use evotoken::model::ModelSource;
use evotoken::model::device::Tally;
use evotoken::model::product::Holding;

use super::Ticks;

const MASKS: [(&str, u32); 2] = [("llada-tiny-lora", 101), ("dream-tiny-lora", 140)];
const VOCAB: usize = 160;

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(family)
}

fn pooled(family: &str, kv_bytes: usize) -> CandleBackend {
    CandleBackend::load_pooled(&ModelSource::folder(folder(family)), super::device(), kv_bytes).unwrap()
}

/// Attention one way or the other.
fn pooled_as(family: &str, kv_bytes: usize, (holding, ticks): (Holding, Ticks)) -> CandleBackend {
    let placement = Placement { device: ticks.device(holding), holding };
    let pool = PoolChoice { bytes: Some(kv_bytes), ragged: ticks.ragged() };
    CandleBackend::load_pooled(&ModelSource::folder(folder(family)), placement, pool).unwrap()
}

fn adapter(backend: &CandleBackend, family: &str) -> AdapterId {
    let source = ModelSource::folder(folder(family).join("adapter"));
    backend.adapter_loader().load(AdapterId(1), &source).unwrap();
    AdapterId(1)
}

fn params(answer: usize, block: usize, cache: CacheMode) -> DecodeParams {
    let options = DecodeOptions {
        method: Some(Method::Evotoken),
        block_length: Some(block),
        steps: Some(answer),
        cache: Some(cache),
        ..DecodeOptions::default()
    };
    options.resolve(answer, VOCAB).unwrap()
}

/// So many sequences of the same length in their second step; every other one goes through an adapter.
fn tick(family: (&str, u32), count: u32, adapted: bool, way: (Holding, Ticks)) -> (Tally, StepBatch) {
    let mut backend = pooled_as(family.0, 1 << 24, way);
    let adapter = adapted.then(|| adapter(&backend, family.0));
    let mut states: Vec<(State, SlotId)> = (0..count)
        .map(|index| {
            let prompt: Vec<u32> = (0..12).map(|i| 2 + (i * 5 + index) % 90).collect();
            let slot = SlotId { index, generation: 0 };
            backend.open_slot(slot, 20).unwrap();
            (State::new(&prompt, 8, params(8, 8, CacheMode::Dual), Attention::Full, family.1), slot)
        })
        .collect();
    let mut seen = None;
    for _ in 0..2 {
        let mut batch = StepBatch::default();
        let plans: Vec<_> = states.iter().map(|(state, _)| state.plan()).collect();
        for ((state, slot), plan) in states.iter().zip(&plans) {
            batch.push_step(state, plan, *slot, None);
        }
        if let Some(adapter) = adapter {
            batch.segments.iter_mut().step_by(2).for_each(|segment| segment.adapter = Some(adapter));
        }
        let before = backend.tally();
        let output = backend.step(&batch).unwrap();
        seen = Some((backend.tally().since(before), batch));
        let mut row = 0;
        for ((state, _), plan) in states.iter_mut().zip(&plans) {
            state.advance(output.rows(row, plan.needed()));
            row += plan.needed();
        }
    }
    seen.unwrap()
}

#[test]
fn a_tick_launches_the_same_for_any_number_of_sequences_and_moves_what_the_formula_says() {
    for (family, adapted, ticks) in ways() {
        let of_one = tick(family, 1, adapted, (Holding::F32, ticks)).0;
        for count in [1, 8, 32] {
            let (tally, batch) = tick(family, count, adapted, (Holding::F32, ticks));
            println!("{} adapted {adapted} {ticks:?} {count:2} sequences: {tally:?}", family.0);
            assert_eq!((tally.launches, tally.shapes), (of_one.launches, of_one.shapes));
            assert_eq!((tally.uploads, tally.downloads), (1, 1));
            let (rows, needed) = (batch.rows(), batch.needed());
            let others = batch.pairs.len() - rows;
            let seen: usize = batch.segments.iter().map(|segment| segment.visible).sum();
            // First pairs, positions, places to write; the other pairs; rows of the head and given tokens.
            let mut words = 4 * rows + 3 * others + 2 * needed;
            words += match ticks {
                // Places, and where each segment begins among rows and places.
                Ticks::Varlen => seen + 2 * (batch.segments.len() + 1),
                // Where to find results; queries, places and bias of a group without padding.
                _ => rows + rows + 2 * seen,
            };
            if adapted {
                let own = batch.segments.iter().step_by(2);
                let own: usize = own.map(|own| own.window.len() + own.targets.len()).sum();
                // Where each row's change lies, and the rows that have one.
                words += rows + needed + own;
            }
            assert_eq!(tally.uploaded_bytes, 4 * words as u64);
            assert_eq!(tally.downloaded_bytes, 4 * (needed * (2 * batch.top_k + 3)) as u64);
        }
    }
}

/// Both families, with an adapter and without, and both ways of attention.
fn ways() -> impl Iterator<Item = ((&'static str, u32), bool, Ticks)> {
    let ways = |family| {
        let adapted = [false, true].into_iter();
        adapted.flat_map(move |adapted| [Ticks::Padded, Ticks::Varlen].map(|ticks| (family, adapted, ticks)))
    };
    MASKS.into_iter().flat_map(ways)
}

#[test]
fn a_tick_launches_what_the_table_in_docs_cuda_says() {
    let layers = 3;
    for (way, others, of_layer) in [
        ((Holding::F32, Ticks::Padded), 38, 29),
        ((Holding::Bf16, Ticks::Padded), 42, 45),
        ((Holding::Bf16, Ticks::Varlen), 42, 38),
    ] {
        assert_eq!(tick(MASKS[0], 8, false, way).0.launches, others + layers * of_layer, "{way:?}");
    }
}

#[test]
fn a_step_of_nothing_asks_the_device_for_nothing() {
    let mut backend = pooled(MASKS[0].0, 1 << 24);
    let before = backend.tally();
    let output = backend.step(&StepBatch::default()).unwrap();
    assert!(output.guesses.is_empty() && backend.logits(&StepBatch::default()).unwrap().is_empty());
    assert_eq!(backend.tally(), before);
}

#[test]
fn only_rows_that_the_host_draws_from_bring_their_logits_down() {
    let (family, mask) = MASKS[0];
    let (mut backend, mut host) = (pooled(family, 1 << 24), host(family));
    let mut batch = StepBatch::default();
    let draw = Sampling { temperature: 0.7, seed: 5, given: None, ..Sampling::score(0) };
    for (index, sampling) in (0..).zip([None, Some(draw), Some(Sampling::score(17))]) {
        let slot = SlotId { index, generation: 0 };
        let state = State::new(&[5, 6, 7], 8, params(8, 4, CacheMode::Dual), Attention::Full, mask);
        backend.open_slot(slot, 11).unwrap();
        host.open_slot(slot, 11).unwrap();
        batch.push_step(&state, &state.plan(), slot, sampling);
    }
    let before = backend.tally();
    let output = backend.step(&batch).unwrap();
    let tally = backend.tally().since(before);
    let rows = batch.segments[1].targets.len();
    assert_eq!(tally.downloads, 2);
    let reduced = batch.needed() * (2 * batch.top_k + 3);
    assert_eq!(tally.downloaded_bytes, 4 * (reduced + rows * VOCAB) as u64);
    same(&output, &host.step(&batch).unwrap()).unwrap();
    assert!(output.guesses[2 * rows..].iter().all(|(id, _)| *id == 17));
}

fn host(family: &str) -> CandleBackend {
    CandleBackend::load(&ModelSource::folder(folder(family)), DeviceChoice::Cpu).unwrap()
}

/// Two outputs that say the same: log-probabilities within a thousandth, and the same tokens wherever no other is as near.
fn same(got: &StepOutput, want: &StepOutput) -> Result<(), TestCaseError> {
    const NEAR: f32 = 1e-3;
    prop_assert_eq!(&got.faults, &want.faults);
    prop_assert_eq!((got.top_k, got.guesses.len()), (want.top_k, want.guesses.len()));
    let logs = |output: &StepOutput| [output.log_candidates.clone(), output.log_guesses.clone()].concat();
    for (a, b) in logs(got).into_iter().zip(logs(want)) {
        prop_assert!((a - b).abs() <= NEAR || b < -30.0, "{} instead of {}", a, b);
    }
    for row in 0..want.guesses.len() {
        let (own, rows) = (got.rows(row, 1), want.rows(row, 1));
        let logs = rows.log_candidates(0);
        let clear = |n: usize| {
            let apart = |m: usize| logs.get(m).is_none_or(|other| (other - logs[n]).abs() > 2.0 * NEAR);
            // The last one may be as near to the next, which is not told.
            n + 1 < logs.len() && apart(n + 1) && (n == 0 || apart(n - 1))
        };
        for n in (0..logs.len()).filter(|n| clear(*n)) {
            prop_assert_eq!(own.candidates(0)[n].0, rows.candidates(0)[n].0);
        }
    }
    Ok(())
}

/// A sequence that both backends step.
struct Sequence {
    state: State,
    slot: SlotId,
    adapter: Option<AdapterId>,
}

/// What happens next: a sequence comes, one goes, some take a step.
#[derive(Debug, Clone)]
enum Turn {
    Open { prompt: usize, answer: usize, cache: CacheMode, causal: bool, adapted: bool },
    Close(usize),
    Step(u32),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let caches = prop_oneof![Just(CacheMode::None), Just(CacheMode::Prefix), Just(CacheMode::Dual)];
    let open = (1usize..20, 1usize..14, caches, any::<bool>(), any::<bool>());
    let open = open.prop_map(|(prompt, answer, cache, causal, adapted)| Turn::Open {
        prompt,
        answer,
        cache,
        causal,
        adapted,
    });
    let one = prop_oneof![3 => open, 2 => (0usize..64).prop_map(Turn::Close), 5 => any::<u32>().prop_map(Turn::Step)];
    prop::collection::vec(one, 4..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_schedule_over_a_pool_in_pieces_says_what_slots_of_their_own_say(
        turns in turns(), family in prop_oneof![Just(MASKS[0]), Just(MASKS[1])], places in 20usize..120,
        ticks in prop_oneof![Just(Ticks::Padded), Just(Ticks::Varlen)],
    ) {
        let mut host = host(family.0);
        let position = pooled(family.0, 0).bytes_per_position();
        let mut pool = pooled_as(family.0, places * position, (Holding::F32, ticks));
        let adapters = [&host, &pool].map(|backend| adapter(backend, family.0));
        prop_assert_eq!(adapters[0], adapters[1]);
        let (mut running, mut generation): (Vec<Sequence>, u32) = (Vec::new(), 0);
        for turn in turns {
            match turn {
                Turn::Open { prompt, answer, cache, causal, adapted } => {
                    let slot = SlotId { index: generation % 3, generation };
                    generation += 1;
                    let canvas = prompt + answer;
                    let held: usize = running.iter().map(|sequence| sequence.state.tokens().len()).sum();
                    let opened = pool.open_slot(slot, canvas);
                    if held + canvas > places {
                        let full = matches!(opened, Err(BackendError::OutOfMemory { .. }));
                        prop_assert!(full, "{:?}", opened);
                        continue;
                    }
                    opened.unwrap();
                    host.open_slot(slot, canvas).unwrap();
                    let tokens: Vec<u32> = (0..prompt as u32).map(|i| 2 + (i * 7 + generation) % 90).collect();
                    let attention = if causal { Attention::BlockCausal } else { Attention::Full };
                    let state = State::new(&tokens, answer, params(answer, 1 + answer / 3, cache), attention, family.1);
                    running.push(Sequence { state, slot, adapter: adapted.then_some(adapters[0]) });
                }
                Turn::Close(n) if !running.is_empty() => {
                    let gone = running.swap_remove(n % running.len());
                    host.close_slot(gone.slot);
                    pool.close_slot(gone.slot);
                }
                Turn::Close(_) => {}
                Turn::Step(which) => {
                    let mut batch = StepBatch::default();
                    let chosen = running.iter_mut().enumerate().filter(|(n, _)| which >> (n % 32) & 1 == 1);
                    let mut chosen: Vec<_> = chosen.map(|(_, own)| own).filter(|own| !own.state.done()).collect();
                    let plans: Vec<_> = chosen.iter().map(|own| own.state.plan()).collect();
                    for (own, plan) in chosen.iter().zip(&plans) {
                        let first = batch.segments.len();
                        batch.push_step(&own.state, plan, own.slot, None);
                        batch.adapt(first, own.adapter);
                    }
                    if chosen.is_empty() {
                        continue;
                    }
                    let want = host.step(&batch).unwrap();
                    same(&pool.step(&batch).unwrap(), &want)?;
                    let mut row = 0;
                    for (own, plan) in chosen.iter_mut().zip(&plans) {
                        own.state.advance(want.rows(row, plan.needed()));
                        row += plan.needed();
                    }
                }
            }
        }
    }
}

#[test]
fn a_step_that_is_cut_between_layers_says_the_same() {
    for (family, mask) in MASKS {
        let (mut whole, mut cut) = (pooled(family, 1 << 24), pooled(family, 1 << 24));
        let state = State::new(&[5, 6, 7, 8], 8, params(8, 4, CacheMode::Dual), Attention::Full, mask);
        let slot = SlotId { index: 0, generation: 0 };
        let mut batch = StepBatch::default();
        batch.push_step(&state, &state.plan(), slot, None);
        whole.open_slot(slot, 12).unwrap();
        cut.open_slot(slot, 12).unwrap();
        assert!(cut.step_layers(&batch, 0..1).unwrap().is_none());
        let last = cut.step_layers(&batch, 1..3).unwrap().unwrap();
        assert_eq!(last, whole.step(&batch).unwrap(), "{family}");
        assert!(cut.step_layers(&batch, 1..3).is_err(), "it is over");
    }
}

#[test]
fn what_a_spoiled_sequence_leaves_in_the_pool_reaches_nobody() {
    for ticks in [Ticks::Padded, Ticks::Varlen] {
        spoil(MASKS[0], (Holding::F32, ticks));
    }
}

fn spoil((family, mask): (&str, u32), way: (Holding, Ticks)) {
    let mut backend = pooled_as(family, 1 << 24, way);
    let position = backend.bytes_per_position();
    let mut small = pooled_as(family, 16 * position, way);
    let state = State::new(&[5, 6], 4, params(4, 4, CacheMode::Dual), Attention::Full, mask);
    let step = |backend: &mut CandleBackend, index, weight: f32| {
        let slot = SlotId { index, generation: 0 };
        backend.open_slot(slot, 6).unwrap();
        let mut batch = StepBatch::default();
        batch.push_step(&state, &state.plan(), slot, None);
        batch.pairs[0].1 = weight;
        let output = backend.step(&batch).unwrap();
        backend.close_slot(slot);
        output
    };
    let fine = step(&mut backend, 0, 1.0);
    let spoiled = step(&mut small, 1, f32::NAN);
    assert_eq!(spoiled.faults.len(), spoiled.guesses.len());
    assert!(spoiled.faults[0].1.contains("no finite number"), "{:?}", spoiled.faults[0]);
    assert_eq!(step(&mut small, 2, 1.0), fine);
}
