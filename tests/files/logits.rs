//! Logits of the same weights from a folder and from a GGUF file.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::engine::batch::{Backend, Segment, SlotId, StepBatch};
use evotoken::model::ModelSource;

use crate::{fixture, gguf};

/// Logits of every position of a canvas but the first.
pub fn logits(path: &Path) -> Vec<Vec<f32>> {
    let slot = SlotId { index: 0, generation: 0 };
    let mut backend = CandleBackend::load(&ModelSource::open(path).unwrap(), DeviceChoice::Cpu).unwrap();
    let rows: Vec<u32> = (0..24).map(|i| (i * 37 + 5) % 90).collect();
    let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
    let canvas = rows.len();
    rows.into_iter().for_each(|id| batch.push_row([(id, 1.0)]));
    let (window, targets) = (0..canvas, 1..canvas);
    batch.segments.push(Segment { slot, adapter: None, window, visible: canvas, targets, sampling: None });
    backend.open_slot(slot, canvas).unwrap();
    backend.logits(&batch).unwrap().remove(0)
}

pub fn largest_difference(left: &[Vec<f32>], right: &[Vec<f32>]) -> f32 {
    assert_eq!((left.len(), left[0].len()), (right.len(), right[0].len()));
    let pairs = left.iter().flatten().zip(right.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Logits of the golden model `name`, and those of it as a GGUF file.
fn both(name: &str, kind: GgmlDType) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf::File::of(&fixture(name), kind).write(&path);
    (logits(&fixture(name)), logits(&path))
}

#[test]
fn a_file_in_the_folders_own_format_gives_its_logits_to_the_bit() {
    // LLaDA's rows are reordered in the file, Dream's are not, and its logits are shifted.
    for (name, kind) in [("llada-tiny", GgmlDType::F32), ("dream-tiny", GgmlDType::BF16)] {
        let (folder, file) = both(name, kind);
        assert_eq!(folder, file, "{name}");
    }
}

#[test]
fn a_file_of_fewer_bits_gives_nearly_the_folders_logits() {
    for (name, kind, bound) in [
        ("llada-tiny", GgmlDType::F16, 0.002),
        ("llada-tiny", GgmlDType::BF16, 0.01),
        ("dream-tiny", GgmlDType::F16, 0.002),
        ("dream-tiny", GgmlDType::F32, 0.0001),
        ("llada-tiny", GgmlDType::Q8_0, 0.05),
        ("dream-tiny", GgmlDType::Q8_0, 0.05),
        ("llada-tiny", GgmlDType::Q5_1, 0.3),
        ("llada-tiny", GgmlDType::Q5_0, 0.3),
        ("dream-tiny", GgmlDType::Q4_0, 0.5),
    ] {
        let (folder, file) = both(name, kind);
        let largest = folder.iter().flatten().fold(0.0, |most: f32, logit| most.max(logit.abs()));
        let difference = largest_difference(&folder, &file) / largest;
        println!("{name} {kind:?}: {difference} of the largest logit, {largest}");
        assert!(difference <= bound, "{name} {kind:?}: {difference}");
    }
}
