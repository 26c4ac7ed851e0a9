//! Logits of single forward passes: full, soft inputs, windows over a cache, block-causal.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use evotoken::backend::CandleBackend;
use evotoken::engine::batch::{AdapterId, Backend, Segment, SlotId, StepBatch};
use evotoken::model::product::Holding;

use super::Ticks;

const SLOT: SlotId = SlotId { index: 0, generation: 0 };

#[derive(Deserialize)]
struct Records {
    records: Vec<Record>,
}

#[derive(Deserialize, Clone)]
struct Record {
    name: String,
    #[serde(default)]
    ids: Vec<u32>,
    #[serde(default)]
    soft_ids: Vec<Vec<u32>>,
    #[serde(default)]
    soft_weights: Vec<Vec<f32>>,
    cache_from: Option<String>,
    window: Option<[usize; 2]>,
    split: Option<usize>,
}

impl Record {
    fn rows(&self) -> Vec<Vec<(u32, f32)>> {
        let hard = self.ids.iter().map(|id| vec![(*id, 1.0)]);
        let soft = self.soft_ids.iter().zip(&self.soft_weights);
        let soft = soft.map(|(ids, weights)| ids.iter().copied().zip(weights.iter().copied()).collect());
        hard.chain(soft).collect()
    }

    /// Windows, each with the positions it sees.
    fn windows(&self) -> Vec<(Range<usize>, usize)> {
        let len = self.rows().len();
        match (self.split, self.window) {
            (Some(split), _) => vec![(0..split, split), (split..len, len)],
            (None, Some([start, stop])) => vec![(start..stop, stop)],
            (None, None) => vec![(0..len, len)],
        }
    }
}

/// Logits for the positions `targets`; the pass covers the whole record.
fn pass(
    (backend, adapter): &mut (CandleBackend, Option<AdapterId>),
    record: &Record,
    canvas: usize,
    targets: Range<usize>,
) -> Vec<Vec<f32>> {
    let mut batch = StepBatch { top_k: 1, ..StepBatch::default() };
    let mut rows = record.rows().into_iter();
    for (window, visible) in record.windows() {
        for _ in window.clone() {
            batch.push_row(rows.next().expect("a window has its rows"));
        }
        // A cached window of a full model sees the whole canvas, also what lies right of it.
        let visible = if record.cache_from.is_some() { canvas.max(visible) } else { visible };
        let needed = targets.start.max(window.start)..targets.end.min(window.end);
        let needed = if needed.is_empty() { window.start..window.start } else { needed };
        batch.segments.push(Segment {
            slot: SLOT,
            adapter: *adapter,
            window,
            visible,
            targets: needed,
            sampling: None,
        });
    }
    backend.logits(&batch).unwrap().into_iter().flatten().collect()
}

#[test]
fn golden_logits_are_within_a_thousandth() {
    for ticks in [Ticks::Host, Ticks::Padded, Ticks::Varlen] {
        let differences = compare(Holding::F32, ticks);
        assert!(!differences.is_empty(), "no logits were compared");
        for Difference { case, rows, largest, .. } in differences {
            println!("{case} {ticks:?}: {rows} rows, largest difference {largest:.1e}");
            assert!(largest <= 1e-3, "{case} {ticks:?}: {largest}");
        }
    }
}

/// With weights of fewer bits, and for bf16 rows of fewer bits too. Bounds are on the root mean square of the differences
/// in parts of that of the logits, in passes with golden inputs; about one and a half times what was seen.
#[test]
fn logits_from_smaller_weights_are_near_the_golden_ones() {
    let on_host = [(Holding::Bf16, 0.02), (Holding::Q8_0, 0.05), (Holding::Q4k, 0.55)];
    let on_host = on_host.map(|(holding, bound)| (holding, Ticks::Host, bound));
    // There K/V and what products give are bf16, too.
    let pooled = [Ticks::Padded, Ticks::Varlen].map(|ticks| (Holding::Bf16, ticks, 0.023));
    for (holding, ticks, bound) in on_host.into_iter().chain(pooled) {
        for Difference { case, rows, relative, .. } in compare(holding, ticks) {
            println!("{case} {holding:?} {ticks:?}: {rows} rows, differences of {relative:.4}");
            assert!(relative <= bound, "{case} {holding:?} {ticks:?}: {relative}");
        }
    }
}

/// How the logits of a golden pass differ from ours.
struct Difference {
    case: String,
    rows: usize,
    largest: f32,
    /// Root mean square, in parts of that of the golden logits.
    relative: f64,
}

impl Difference {
    fn new(case: String, got: &[Vec<f32>], want: &[Vec<f32>]) -> Self {
        assert_eq!(got.len(), want.len(), "{case}");
        let pairs = || got.iter().flatten().zip(want.iter().flatten());
        let square = |x: f32| f64::from(x) * f64::from(x);
        let of_logits: f64 = want.iter().flatten().map(|x| square(*x)).sum();
        let of_differences: f64 = pairs().map(|(a, b)| square(a - b)).sum();
        let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let relative = if want.is_empty() { 0.0 } else { (of_differences / of_logits).sqrt() };
        Self { case, rows: got.len(), largest, relative }
    }
}

/// Every golden pass, with weights held in some format.
fn compare(holding: Holding, ticks: Ticks) -> Vec<Difference> {
    let mut differences = Vec::new();
    for folder in super::folders() {
        let Some(mut model) = super::load_as(&folder, holding, ticks) else { continue };
        let records: Records = super::read_json(&folder.join("logits.json"));
        let by_name: HashMap<_, _> = records.records.iter().map(|r| (r.name.clone(), r.clone())).collect();
        let tensors =
            candle_core::safetensors::load(folder.join("logits.safetensors"), &Device::Cpu).unwrap();
        // Shifted models have no row for the first position of a canvas, and a server never needs one.
        let first = usize::from(model.0.config().shifted());
        for record in &records.records {
            let cached = record.cache_from.as_ref().map(|name| &by_name[name]);
            let canvas = cached.unwrap_or(record).rows().len();
            let stop = record.window.map_or(canvas, |[_, stop]| stop);
            let start = record.window.map_or(first, |[start, _]| start);
            model.0.open_slot(SLOT, canvas).unwrap();
            if let Some(cached) = cached {
                // The positions the window does not cover keep the earlier pass's K/V.
                pass(&mut model, cached, canvas, start..canvas);
            }
            let got = match start < stop {
                true => pass(&mut model, record, canvas, start..stop),
                false => Vec::new(),
            };
            model.0.close_slot(SLOT);
            let want: &Tensor = &tensors[&format!("{}.logits", record.name)];
            let skip = if record.window.is_some() { 0 } else { first };
            let want: Vec<Vec<f32>> = want.to_vec2::<f32>().unwrap().split_off(skip);
            differences.push(Difference::new(
                format!("{} {}", super::name(&folder), record.name),
                &got,
                &want,
            ));
        }
    }
    differences
}
