//! Adapters beside the model's weights: sequences of several share ticks, and each gets the answer that it gets alone.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};
use evotoken::backend::CandleBackend;
use evotoken::backend::device::{DeviceChoice, Placement};
use evotoken::decode::{Attention, DecodeOptions, State};
use evotoken::engine::batch::{AdapterId, Backend, SlotId, StepBatch};
use evotoken::engine::request::Draft;
use evotoken::engine::variant::Variant;
use evotoken::engine::{EngineHandle, EngineLimits, ModelInfo, start};
use evotoken::model::ModelSource;
use evotoken::model::marker::Marker;
use evotoken::model::product::Holding;
use evotoken::telemetry::metrics::Metrics;
use evotoken::train::merge;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::batching::{EOS, MASK, VOCAB, backend, checked, drafts, engine, first_steps, fixture, holds};
use super::content::{ContentBackend, Did};
use super::{answer, draft, empty, engine_limits, events, one};

const FILE: &str = "adapter_model.safetensors";

/// Linear modules of the model, each with (out, in).
const MODULES: [(&str, usize, usize); 8] = [
    ("blocks.0.q_proj", 64, 64),
    ("blocks.0.k_proj", 64, 64),
    ("blocks.1.v_proj", 64, 64),
    ("blocks.1.attn_out", 64, 64),
    ("blocks.1.ff_proj", 160, 64),
    ("blocks.2.up_proj", 160, 64),
    ("blocks.2.ff_out", 64, 160),
    ("ff_out", VOCAB, 64),
];

/// An adapter for a module of every kind, with matrices that depend on `seed`; those of layer 1 have twice the rank.
/// `scale`: of B.
fn written(rank: usize, seed: f32, scale: f32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let wave = |rows: usize, columns: usize, step: f32, scale: f32| {
        let values = (0..rows * columns).map(|i| (i as f32 * step + seed).sin() * scale).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    };
    let mut tensors = HashMap::new();
    for (module, out, width) in MODULES {
        let rank = if module.contains(".1.") { 2 * rank } else { rank };
        let path = format!("base_model.model.model.transformer.{module}");
        tensors.insert(format!("{path}.lora_A.weight"), wave(rank, width, 0.7, 0.2));
        tensors.insert(format!("{path}.lora_B.weight"), wave(out, rank, 1.3, scale));
    }
    candle_core::safetensors::save(&tensors, folder.path().join(FILE)).unwrap();
    let ranks = ["v_proj", "attn_out", "ff_proj"].map(|module| (format!("blocks.1.{module}"), 2 * rank));
    let config =
        json!({"peft_type": "LORA", "r": rank, "lora_alpha": 6, "rank_pattern": HashMap::from(ranks)});
    configure(folder.path(), &config);
    folder
}

fn configure(folder: &Path, config: &Value) {
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

fn load(backend: &CandleBackend, folder: &Path) -> AdapterId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = AdapterId(NEXT.fetch_add(1, Ordering::Relaxed));
    backend.adapter_loader().load(id, &ModelSource::folder(folder)).unwrap();
    id
}

/// The model, its weights held like this.
fn held(holding: Holding) -> CandleBackend {
    let placement = Placement { device: DeviceChoice::Cpu, holding };
    CandleBackend::load(&ModelSource::folder(fixture("llada-tiny")), placement).unwrap()
}

/// An engine, and its variants: the model and two adapters, each with full and with block-causal attention.
fn served(holding: Holding, ranks: [usize; 2], slots: usize, budget: usize) -> (EngineHandle, Vec<Variant>) {
    let backend = held(holding);
    let load = |(rank, seed)| load(&backend, written(rank, seed, 0.2).path());
    let ids = [(ranks[0], 0.3), (ranks[1], 1.7)].map(load);
    let model = ModelInfo { mask_id: MASK, eos_ids: vec![EOS] };
    let limits = EngineLimits {
        slots,
        kv_bytes: 1 << 28,
        // Alone nothing is shared.
        prefix_cache_bytes: if slots > 1 { 1 << 20 } else { 0 },
        rows_per_tick: budget,
        event_buffer: 256,
        ..engine_limits()
    };
    let engine = start(backend, model, limits, Arc::new(Metrics::new())).unwrap();
    let [first, second] = ids.map(|id| engine.hold(id));
    let adapters = [None, Some(first), Some(second)];
    let both = |adapter| [Attention::Full, Attention::BlockCausal].map(|attention| (attention, adapter));
    let all = adapters.each_ref().into_iter().flat_map(both);
    let variant = |(attention, adapter): (_, &Option<_>)| Variant { attention, adapter: adapter.clone() };
    (engine, all.map(variant).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn an_answer_of_any_adapter_is_the_answer_alone(
        drafts in drafts(), slots in 2usize..17, budget in 16usize..400,
        holding in prop_oneof![Just(Holding::F32), Just(Holding::Bf16), Just(Holding::Q8_0)],
        ranks in prop_oneof![Just([4, 16]), Just([8, 8]), Just([1, 3])],
    ) {
        holds(|slots, budget| served(holding, ranks, slots, budget), &drafts, slots, budget)?;
    }

    #[test]
    fn an_adapter_whose_second_matrices_are_zero_gives_the_bits_of_the_model(drafts in drafts()) {
        let backend = backend();
        let id = load(&backend, written(4, 0.3, 0.0).path());
        let engine = engine(backend, 16, 1 << 16);
        let adapter = Variant { adapter: Some(engine.hold(id)), ..Variant::default() };
        for draft in &drafts {
            // Watched steps may be left out.
            let mut draft = draft.clone();
            draft.sampling.progress = false;
            let [with, without] = [&adapter, &Variant::default()]
                .map(|variant| events(one(&engine, checked(&draft, std::slice::from_ref(variant)))));
            prop_assert_eq!(with, without);
        }
    }
}

/// Sequences in their first step, each with its adapter.
fn batch(backend: &mut CandleBackend, adapters: &[Option<AdapterId>]) -> StepBatch {
    let params =
        DecodeOptions { block_length: Some(8), ..DecodeOptions::default() }.resolve(16, VOCAB).unwrap();
    let mut batch = StepBatch::default();
    for (index, adapter) in (0..).zip(adapters) {
        let slot = SlotId { index, generation: 0 };
        let prompt: Vec<u32> = (0..5 + index).map(|i| 2 + i * 3).collect();
        let state = State::new(&prompt, 16, params, Attention::Full, MASK);
        backend.open_slot(slot, prompt.len() + 16).unwrap();
        let first = batch.segments.len();
        batch.push_step(&state, &state.plan(), slot, None);
        batch.adapt(first, *adapter);
    }
    batch
}

#[test]
fn a_tick_applies_the_model_s_matrices_once_and_each_adapter_s_once_whatever_the_number_of_sequences() {
    let mut backend = backend();
    let [a, b] = [0.3, 1.7].map(|seed| Some(load(&backend, written(4, seed, 0.2).path())));
    let mut calls = |adapters: &[Option<AdapterId>]| {
        let batch = batch(&mut backend, adapters);
        let before = backend.linear_calls();
        backend.step(&batch).unwrap();
        backend.linear_calls() - before
    };
    // 7 matrices in each of 3 layers, and the head.
    assert_eq!(calls(&[None]), 22);
    assert_eq!(calls(&[a]), 22 + MODULES.len() as u64);
    let few = calls(&[None, a, b]);
    assert_eq!(few, 22 + 2 * MODULES.len() as u64);
    assert_eq!(calls(&[a, b, None, a, a, b, None, b, a, None, b, b]), few);
}

#[test]
fn every_adapter_changes_what_the_model_says_however_its_weights_are_held() {
    let numbers = |mut backend: CandleBackend, adapter: Option<TempDir>| {
        let id = adapter.map(|adapter| load(&backend, adapter.path()));
        let batch = batch(&mut backend, &[id]);
        backend.step(&batch).unwrap().candidates
    };
    let adapter = |rank, seed| Some(written(rank, seed, 0.2));
    let all = [
        numbers(held(Holding::F32), None),
        numbers(held(Holding::Bf16), None),
        numbers(held(Holding::F32), adapter(4, 0.3)),
        numbers(held(Holding::F32), adapter(4, 1.7)),
        numbers(held(Holding::Bf16), adapter(4, 0.3)),
        numbers(held(Holding::Bf16), adapter(8, 0.3)),
    ];
    for (at, some) in all.iter().enumerate() {
        assert!(!all[..at].contains(some), "model {at} says what another one says");
    }
}

#[test]
fn an_adapter_of_modules_of_all_kinds_and_of_two_ranks_says_what_its_merged_weights_say() {
    let (folder, adapter) = (tempfile::tempdir().unwrap(), written(4, 0.3, 0.2));
    let merged = folder.path().join("merged");
    let marker = "{\"attention\": \"block_causal\"}";
    std::fs::write(adapter.path().join("evotoken.json"), marker).unwrap();
    merge::merge(&fixture("llada-tiny"), adapter.path(), &merged).unwrap();
    let marked = Marker::load(&ModelSource::folder(&merged)).unwrap();
    assert_eq!(marked.attention, Some(Attention::BlockCausal), "merged weights see what they saw");
    let mut merged = CandleBackend::load(&ModelSource::folder(merged), DeviceChoice::Cpu).unwrap();
    let mut beside = backend();
    let id = load(&beside, adapter.path());
    let of_merged = batch(&mut merged, &[None; 3]);
    // One of another kind in between.
    let of_beside = batch(&mut beside, &[Some(id), None, Some(id)]);
    let (expected, found) = (merged.logits(&of_merged).unwrap(), beside.logits(&of_beside).unwrap());
    for number in [0, 2] {
        let pairs = expected[number].iter().flatten().zip(found[number].iter().flatten());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "sequence {number} differs by {worst}");
    }
    assert_ne!(expected[1], found[1]);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_with_the_file_and_tensor_at_fault_and_holds_nothing() {
    let backend = backend();
    let refused = |folder: &TempDir| {
        let source = ModelSource::folder(folder.path());
        let error = backend.adapter_loader().load(AdapterId(1), &source).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let edited = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let folder = written(4, 0.3, 0.2);
        let path = folder.path().join(FILE);
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, path).unwrap();
        refused(&folder)
    };
    let name = "base_model.model.model.transformer.blocks.0.q_proj.lora_A.weight";
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let wide = edited(&|tensors| drop(tensors.insert(name.to_owned(), zeros((4, 128)))));
    assert_eq!(
        wide,
        format!("adapter_model.safetensors: tensor {name}: expected shape [4, 64], found [4, 128]")
    );
    let rank = edited(&|tensors| drop(tensors.insert(name.to_owned(), zeros((2, 64)))));
    assert!(rank.contains(name) && rank.contains("expected shape [4, 64], found [2, 64]"), "{rank}");
    let foreign = "base_model.model.model.transformer.blocks.9.q_proj";
    let unknown = edited(&|tensors| {
        tensors.insert(format!("{foreign}.lora_A.weight"), zeros((4, 64)));
        tensors.insert(format!("{foreign}.lora_B.weight"), zeros((64, 4)));
    });
    assert!(
        unknown.contains("blocks.9.q_proj") && unknown.contains("the model does not have this module"),
        "{unknown}"
    );
    let lone = edited(&|tensors| drop(tensors.remove(&name.replace("lora_A", "lora_B"))));
    assert!(lone.contains("lora_B") && lone.contains("missing"), "{lone}");

    let folder = written(4, 0.3, 0.2);
    std::fs::write(folder.path().join(FILE), "no tensors").unwrap();
    assert!(refused(&folder).contains(FILE));
    configure(folder.path(), &json!({"r": 4, "lora_alpha": 6, "use_dora": true}));
    let config = refused(&folder);
    assert!(config.contains("adapter_config.json") && config.contains("use_dora = true"), "{config}");
    let empty = refused(&tempfile::tempdir().unwrap());
    assert!(empty.contains("adapter_config.json is missing"), "{empty}");
}

#[test]
fn a_dropped_adapter_is_gone_and_a_pass_that_names_it_fails_alone() {
    let mut backend = backend();
    let [a, b] = [0.3, 1.7].map(|seed| load(&backend, written(4, seed, 0.2).path()));
    // One that was never used goes, too.
    backend.drop_adapter(b);
    let batch = batch(&mut backend, &[Some(a)]);
    let before = backend.step(&batch).unwrap();
    let mut of_b = batch.clone();
    of_b.adapt(0, Some(b));
    assert!(backend.step(&of_b).is_err());
    assert_eq!(backend.step(&batch).unwrap(), before);
    backend.drop_adapter(a);
    assert!(backend.step(&batch).unwrap_err().to_string().contains("not loaded"));
    assert_eq!(first_steps(&mut backend, &[&[5, 6]]).1.faults, []);
}

#[test]
fn an_adapter_is_given_back_when_its_last_sequence_ended_and_not_before() {
    let (backend, permit, did) = ContentBackend::new(1);
    let model = ModelInfo { mask_id: super::fake::MASK, eos_ids: vec![] };
    let limits = EngineLimits { slots: 1, prefix_cache_bytes: 1 << 20, ..engine_limits() };
    let engine = start(backend, model, limits, Arc::new(Metrics::new())).unwrap();
    let lease = engine.hold(AdapterId(7));
    let variant = Variant { attention: Attention::BlockCausal, adapter: Some(lease) };
    let decode = DecodeOptions { block_length: Some(4), steps: Some(4), ..DecodeOptions::default() };
    let ask = |variant| draft(Draft { variant, prompt: vec![5, 6, 7], max_tokens: 8, decode, ..empty() });
    // One runs, one waits for its slot.
    let readers = engine.submit(vec![ask(variant.clone()), ask(variant)], None).unwrap();
    // Nobody lists it any more; both are answered all the same.
    drop(permit);
    for reader in readers {
        assert_eq!(answer(&events(reader)).0.len(), 8);
    }
    let base = one(&engine, ask(Variant { attention: Attention::BlockCausal, adapter: None }));
    answer(&events(base));
    drop(engine);
    let did: Vec<Did> = did.iter().collect();
    let at = |what: &dyn Fn(&Did) -> bool| did.iter().position(what).unwrap();
    let dropped = at(&|did| *did == Did::Dropped(AdapterId(7)));
    let closed = did.iter().filter(|did| matches!(did, Did::Closed(_)));
    assert_eq!(closed.count(), 3);
    let before = &did[..dropped];
    assert_eq!(before.iter().filter(|did| matches!(did, Did::Opened(..))).count(), 2);
    // The second had its prompt from the first, and nothing of it is left for the model itself.
    assert!(before.iter().any(|did| matches!(did, Did::Restored(id, _) if id.adapter == Some(AdapterId(7)))));
    assert!(!did[dropped..].iter().any(|did| matches!(did, Did::Restored(..))));
}
