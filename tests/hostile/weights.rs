//! Checkpoints and adapters: a damaged folder is refused, or what it holds can be run.

use std::path::Path;

use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::decode::{Attention, DecodeOptions, State};
use evotoken::engine::batch::{AdapterId, Backend, SlotId, StepBatch};
use evotoken::model::{ModelError, ModelSource};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

use crate::checkpoint::{self, Stored};
use crate::memory;
use crate::spoil::{Change, Cut, changes, cut, cuts, spoil};

const WORDS: &[&str] = &[
    "F32",
    "F16",
    "BF16",
    "F64",
    "I64",
    "I32",
    "I16",
    "I8",
    "U64",
    "U32",
    "U16",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "C64",
    "dtype",
    "shape",
    "data_offsets",
    "__metadata__",
    "model.transformer.blocks.0.q_proj.weight",
    "base_model.model.lora_A.weight",
    "model.safetensors",
    "../x",
];

/// Damage to a tensor that the rest of its file agrees with.
#[derive(Debug, Clone)]
enum Wound {
    /// Another type of number over the same bytes.
    Dtype(Index, &'static str),
    /// Another shape, with as many bytes as it needs if they are few, else none.
    Shape(Index, Vec<u64>),
    Name(Index, &'static str),
    Gone(Index),
    Value(Index, f32),
}

fn wounds() -> impl Strategy<Value = Vec<Wound>> {
    let at = any::<Index>;
    let length = prop_oneof![3 => 0u64..20, 1 => select(vec![1 << 31, 1 << 40, 1 << 63, u64::MAX])];
    let one = prop_oneof![
        2 => (at(), select(&WORDS[..20])).prop_map(|(at, dtype)| Wound::Dtype(at, dtype)),
        2 => (at(), proptest::collection::vec(length, 0..5)).prop_map(|(at, shape)| Wound::Shape(at, shape)),
        1 => (at(), select(WORDS)).prop_map(|(at, name)| Wound::Name(at, name)),
        1 => at().prop_map(Wound::Gone),
        2 => (at(), select(vec![f32::NAN, f32::INFINITY, f32::MAX, 0.0, -1e30, 1e-40]))
            .prop_map(|(at, value)| Wound::Value(at, value)),
    ];
    proptest::collection::vec(one, 0..3)
}

fn wound(tensors: &mut Vec<Stored>, wounds: &[Wound]) {
    for wound in wounds {
        let count = tensors.len();
        match wound {
            Wound::Dtype(at, dtype) => tensors[at.index(count)].dtype = (*dtype).to_owned(),
            Wound::Shape(at, shape) => {
                let tensor = &mut tensors[at.index(count)];
                let needed = shape.iter().try_fold(4_u64, |bytes, length| bytes.checked_mul(*length));
                let bytes =
                    needed.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes < 1 << 12);
                tensor.data.resize(bytes.unwrap_or(0), 0);
                tensor.shape.clone_from(shape);
            }
            Wound::Name(at, name) => tensors[at.index(count)].name = (*name).to_owned(),
            Wound::Gone(at) => drop(tensors.remove(at.index(count))),
            Wound::Value(at, value) => {
                let data = &mut tensors[at.index(count)].data;
                let end = data.len().min(4);
                data[..end].copy_from_slice(&value.to_le_bytes()[..end]);
            }
        }
    }
}

/// All damage to one safetensors file.
#[derive(Debug, Clone)]
struct Damage {
    wounds: Vec<Wound>,
    header: Vec<Change>,
    /// What the file says of its header's length.
    claimed: Option<u64>,
    cuts: Vec<Cut>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let lengths =
        select(vec![0, 1, 7, 8, 700, 100_000_000, 100_000_001, 1 << 32, 1 << 60, u64::MAX - 7, u64::MAX]);
    let claimed = prop_oneof![8 => Just(None), 1 => lengths.prop_map(Some)];
    let header = prop_oneof![1 => Just(Vec::new()), 1 => changes(WORDS)];
    (wounds(), header, claimed, cuts()).prop_map(|(wounds, header, claimed, cuts)| Damage {
        wounds,
        header,
        claimed,
        cuts,
    })
}

fn damaged(mut tensors: Vec<Stored>, damage: &Damage) -> Vec<u8> {
    wound(&mut tensors, &damage.wounds);
    let mut header = checkpoint::header(&tensors);
    spoil(&mut header, &damage.header);
    let mut bytes = checkpoint::file(&header, damage.claimed, &tensors);
    cut(&mut bytes, &damage.cuts);
    bytes
}

/// Load the model, and run a step of it if that works. Whether it did.
pub fn answers(model: &Path, adapter: Option<&Path>) -> bool {
    runs(&ModelSource::folder(model), adapter)
}

/// The same for a model from anywhere.
pub fn runs(model: &ModelSource, adapter: Option<&Path>) -> bool {
    let load = || {
        let backend = CandleBackend::load(model, DeviceChoice::Cpu)?;
        let load = |folder| backend.adapter_loader().load(AdapterId(1), &ModelSource::folder(folder));
        let adapter = adapter.map(load).transpose()?;
        Ok::<_, ModelError>((backend, adapter))
    };
    let loaded = load();
    memory::check();
    let (mut backend, adapter) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let config = backend.config().clone();
    let prompt: Vec<u32> = (0..2).filter(|id| *id != config.mask_id).collect();
    let room = config.max_positions.saturating_sub(prompt.len()).min(6);
    let options = DecodeOptions { k_soft: Some(1), ..DecodeOptions::default() };
    let Ok(params) = options.resolve(room, config.vocab) else { return true };
    if room == 0 {
        return true;
    }
    let slot = SlotId { index: 0, generation: 0 };
    backend.open_slot(slot, prompt.len() + room).expect("memory for eight positions");
    let state = State::new(&prompt, room, params, Attention::Full, config.mask_id);
    let mut batch = StepBatch::default();
    batch.push_step(&state, &state.plan(), slot, None);
    batch.adapt(0, adapter.map(|()| AdapterId(1)));
    // Numbers that are none end a sequence, an error a tick; a panic would be a fault of ours.
    let _ = backend.step(&batch);
    memory::check();
    true
}

#[test]
fn the_sound_folders_answer() {
    let (model, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint::write(model.path(), &checkpoint::config());
    checkpoint::write_adapter(adapter.path());
    assert!(answers(model.path(), None));
    assert!(answers(model.path(), Some(adapter.path())));
}

#[test]
fn a_tensor_of_no_elements_and_endless_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::write(folder.path(), &checkpoint::config());
    let mut tensors = checkpoint::weights();
    wound(&mut tensors, &[Wound::Shape(any_index(), vec![0, 1 << 40, 1 << 40])]);
    let bytes = checkpoint::file(&checkpoint::header(&tensors), None, &tensors);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    assert!(!answers(folder.path(), None));
}

/// Any tensor will do.
fn any_index() -> Index {
    use proptest::strategy::ValueTree;
    any::<Index>().new_tree(&mut proptest::test_runner::TestRunner::deterministic()).unwrap().current()
}

proptest! {
    #[test]
    fn a_damaged_checkpoint_is_refused_or_runs(damage in damage()) {
        let folder = tempfile::tempdir().unwrap();
        checkpoint::write(folder.path(), &checkpoint::config());
        let path = folder.path().join("model.safetensors");
        std::fs::write(path, damaged(checkpoint::weights(), &damage)).unwrap();
        answers(folder.path(), None);
    }

    #[test]
    fn a_damaged_adapter_is_refused_or_runs(damage in damage(), settings in changes(&[
        "r", "lora_alpha", "use_dora", "rank_pattern", "bias", "none", "all", "modules_to_save", "lora_only",
    ])) {
        let (model, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        checkpoint::write(model.path(), &checkpoint::config());
        let mut config = checkpoint::adapter_config();
        spoil(&mut config, &settings);
        std::fs::write(adapter.path().join("adapter_config.json"), config.to_string()).unwrap();
        let path = adapter.path().join("adapter_model.safetensors");
        std::fs::write(path, damaged(checkpoint::adapter_weights(), &damage)).unwrap();
        answers(model.path(), Some(adapter.path()));
    }

    #[test]
    fn a_damaged_index_is_refused_or_runs(changes in changes(WORDS), cuts in cuts()) {
        let folder = tempfile::tempdir().unwrap();
        checkpoint::write(folder.path(), &checkpoint::config());
        let names = checkpoint::weights().into_iter().map(|tensor| (tensor.name, Value::from("model.safetensors")));
        let mut index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": Value::from_iter(names)});
        spoil(&mut index, &changes);
        let mut bytes = index.to_string().into_bytes();
        cut(&mut bytes, &cuts);
        std::fs::write(folder.path().join("model.safetensors.index.json"), bytes).unwrap();
        answers(folder.path(), None);
    }
}
