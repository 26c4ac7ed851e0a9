//! GGUF files: a damaged one is refused, or what it holds can be run.

use candle_core::quantized::GgmlDType;
use evotoken::model::ModelSource;
use evotoken::text::{Tokenizer, TokenizerConfig};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::checkpoint;
use crate::gguf_file::{File, Value};
use crate::memory;
use crate::spoil::{cut, cuts};
use crate::weights::runs;

/// A sound file.
fn sound() -> File {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::write(folder.path(), &checkpoint::config());
    File::of(folder.path(), GgmlDType::F32)
}

/// Damage that the rest of the file agrees with.
#[derive(Debug, Clone)]
enum Wound {
    Key(Index, Value),
    KeyGone(Index),
    Kind(Index, u32),
    Shape(Index, Vec<u64>),
    Name(Index, &'static str),
    Gone(Index),
}

fn wounds() -> impl Strategy<Value = Vec<Wound>> {
    let at = any::<Index>;
    let number = select(vec![0, 1, 2, 3, 4, 8, 11, 12, 31, 33, 1 << 20, 1 << 31, u32::MAX]);
    let fraction = select(vec![0.0, -1.0, 1e-30, f32::NAN, f32::INFINITY]);
    let text = || {
        select(vec!["", "llada", "dream", "gpt2", "qwen2", "default", "none", "a b", "\u{0}"])
            .prop_map(str::to_owned)
    };
    let value = prop_oneof![
        4 => number.prop_map(Value::Whole),
        1 => fraction.prop_map(Value::Fraction),
        1 => any::<bool>().prop_map(Value::Flag),
        2 => text().prop_map(Value::Text),
        1 => proptest::collection::vec(text(), 0..14).prop_map(Value::Texts),
        1 => proptest::collection::vec(-1..8, 0..14).prop_map(Value::Wholes),
    ];
    let length = prop_oneof![3 => 0u64..20, 1 => select(vec![1 << 31, 1 << 40, 1 << 63, u64::MAX])];
    let name =
        select(vec!["", "blk.0.attn_q.weight", "blk.99.attn_q.weight", "output.weight", "rope_freqs.weight"]);
    let one = prop_oneof![
        4 => (at(), value).prop_map(|(at, value)| Wound::Key(at, value)),
        1 => at().prop_map(Wound::KeyGone),
        2 => (at(), 0u32..45).prop_map(|(at, kind)| Wound::Kind(at, kind)),
        2 => (at(), proptest::collection::vec(length, 0..6)).prop_map(|(at, shape)| Wound::Shape(at, shape)),
        1 => (at(), name).prop_map(|(at, name)| Wound::Name(at, name)),
        1 => at().prop_map(Wound::Gone),
    ];
    proptest::collection::vec(one, 0..4)
}

fn wound(file: &mut File, wounds: &[Wound]) {
    for wound in wounds {
        let (keys, tensors) = (file.metadata.len(), file.tensors.len());
        let key = |at: &Index| file.metadata.keys().nth(at.index(keys)).cloned().unwrap();
        match wound {
            Wound::Key(at, value) => drop(file.metadata.insert(key(at), value.clone())),
            Wound::KeyGone(at) => drop(file.metadata.remove(&key(at))),
            Wound::Kind(at, kind) => file.tensors[at.index(tensors)].kind = *kind,
            Wound::Shape(at, shape) => file.tensors[at.index(tensors)].shape.clone_from(shape),
            Wound::Name(at, name) => file.tensors[at.index(tensors)].name = (*name).to_owned(),
            Wound::Gone(at) => drop(file.tensors.remove(at.index(tensors))),
        }
    }
}

/// Load what lies there and run a step, if that works. Whether it did.
fn answers(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    let source = match ModelSource::open(&path) {
        Ok(source) => source,
        Err(error) => {
            assert!(error.to_string().contains("model.gguf"), "{error}");
            memory::check();
            return false;
        }
    };
    if let Ok(tokenizer) = Tokenizer::load(&source) {
        let _ = tokenizer.encode("a b").map(|ids| tokenizer.decode(&ids));
    }
    let _ = TokenizerConfig::load(&source);
    runs(&source, None)
}

#[test]
fn the_sound_file_answers() {
    assert!(answers(&sound().bytes()));
}

proptest! {
    #[test]
    fn a_damaged_gguf_file_is_refused_or_runs(wounds in wounds(), cuts in cuts()) {
        let mut file = sound();
        wound(&mut file, &wounds);
        let mut bytes = file.bytes();
        cut(&mut bytes, &cuts);
        answers(&bytes);
    }
}
