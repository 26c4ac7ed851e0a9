//! The same with real models: a shared prefix changes no bit of an answer.

use std::sync::Arc;

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Attention, DecodeOptions, State};
use evotoken::engine::batch::{Backend, PrefixId, SlotId, StepBatch};
use evotoken::engine::request::{Draft, GenerateRequest};
use evotoken::engine::variant::Variant;
use evotoken::engine::{BlockEvent, EngineHandle, EngineLimits, ModelInfo, start};
use evotoken::model::ModelSource;
use evotoken::telemetry::metrics::Metrics;
use proptest::prelude::*;

use super::batching::{VOCAB, fixture};
use super::prefix_schedules::drafts;
use super::{draft, engine_limits, events, prefix};

/// Models with an adapter, and their mask tokens.
const MODELS: [(&str, u32); 2] = [("llada-tiny-lora", 101), ("dream-tiny-lora", 140)];

const PREFIX: PrefixId = PrefixId { adapter: None, number: 1 };

fn backend(family: &str) -> CandleBackend {
    CandleBackend::load(&ModelSource::folder(fixture(family)), DeviceChoice::Cpu).unwrap()
}

/// An engine, and what it can answer with: the model, its adapter, and the same adapter again.
fn engine((family, mask_id): (&str, u32), limits: EngineLimits) -> (EngineHandle, Vec<Variant>) {
    let (backend, model) = (backend(family), ModelInfo { mask_id, eos_ids: vec![1] });
    let loader = backend.adapter_loader();
    let engine = start(backend, model, limits, Arc::new(Metrics::new())).unwrap();
    let adapter = ModelSource::folder(fixture(family).join("adapter"));
    let load = || {
        let lease = engine.new_adapter();
        loader.load(lease.id(), &adapter).unwrap();
        Some(lease)
    };
    let variants = [None, load(), load()].map(|adapter| Variant { adapter, ..prefix::block_causal() });
    (engine, variants.into())
}

fn requests(wave: &[(usize, Draft)], variants: &[Variant]) -> Vec<GenerateRequest> {
    let one = |(number, asked): &(usize, Draft)| {
        draft(Draft { variant: variants[*number].clone(), ..asked.clone() })
    };
    wave.iter().map(one).collect()
}

fn answers(engine: &EngineHandle, requests: &[GenerateRequest]) -> Vec<Vec<BlockEvent>> {
    engine.submit(requests.to_vec(), None).unwrap().into_iter().map(events).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn an_answer_has_the_same_bits_whatever_is_kept(
        waves in proptest::collection::vec(proptest::collection::vec((0usize..3, drafts(false)), 1..6), 1..4),
        model in prop_oneof![Just(MODELS[0]), Just(MODELS[1])], slots in 1usize..8,
        rows_per_tick in 8usize..200, cache in prop_oneof![1 => 0usize..200_000, 1 => Just(1 << 24)],
    ) {
        let (alone, of_alone) = engine(model, EngineLimits { slots: 1, ..engine_limits() });
        let limits = EngineLimits { slots, rows_per_tick, prefix_cache_bytes: cache, ..engine_limits() };
        let (sharing, of_sharing) = engine(model, limits);
        for wave in &waves {
            let together = answers(&sharing, &requests(wave, &of_sharing));
            let one_by_one = requests(wave, &of_alone);
            let one_by_one: Vec<_> =
                one_by_one.iter().flat_map(|request| answers(&alone, std::slice::from_ref(request))).collect();
            prop_assert_eq!(together, one_by_one);
        }
    }
}

#[test]
fn what_is_kept_has_the_bytes_that_are_counted_and_outlives_its_slot() {
    for (family, mask_id) in MODELS {
        let mut backend = backend(family);
        let config = backend.config().clone();
        let positions = 5 * backend.bytes_per_position();
        let left = if family == "dream-tiny-lora" { config.width * 4 } else { 0 };
        assert_eq!(backend.kept_bytes(5), Some(positions + left));
        let params =
            DecodeOptions { block_length: Some(4), ..DecodeOptions::default() }.resolve(8, VOCAB).unwrap();
        let mut state = State::new(&[5, 6, 7, 8, 9], 8, params, Attention::BlockCausal, mask_id);
        let [first, second, third] = [0, 1, 2].map(|index| SlotId { index, generation: 0 });
        let step = |backend: &mut CandleBackend, state: &State, slot| {
            backend.open_slot(slot, 13).unwrap();
            let mut batch = StepBatch::default();
            batch.push_step(state, &state.plan(), slot, None);
            move |backend: &mut CandleBackend| (batch.rows(), backend.step(&batch))
        };
        let (rows, expected) = step(&mut backend, &state, first)(&mut backend);
        assert_eq!(rows, 9);
        backend.keep(PREFIX, first, 0..5).unwrap();
        backend.close_slot(first);
        // Somebody else's numbers in between.
        let other = State::new(&[40, 41, 42, 43, 44], 8, params, Attention::BlockCausal, mask_id);
        step(&mut backend, &other, second)(&mut backend).1.unwrap();
        state.store();
        let run = step(&mut backend, &state, third);
        backend.restore(PREFIX, third).unwrap();
        let (rows, found) = run(&mut backend);
        assert_eq!((rows, found.unwrap()), (4, expected.unwrap()), "{family}");
        backend.forget(PREFIX);
        assert!(backend.restore(PREFIX, third).is_err(), "it is forgotten");
    }
}
