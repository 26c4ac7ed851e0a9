//! One model's steps, phase by phase.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use evotoken::backend::CandleBackend;
use evotoken::backend::device::DeviceChoice;
use evotoken::engine::batch::{Backend, Segment, SlotId, StepBatch};
use evotoken::model::checkpoint::Checkpoint;
use evotoken::model::product::{Holding, Packed};
use evotoken::model::stored::Format;
use evotoken::model::{ModelConfig, ModelSource, bundled};

use crate::Flags;
use crate::limits::Limits;
use crate::spans::Spans;

/// Steps that are timed.
const STEPS: usize = 15;

/// Print a table for a refresh of one stream, and for refinements of one and of several.
pub fn profile(flags: &Flags, model: Option<&Path>, limits: &Limits, spans: &Spans) -> Result<()> {
    let source = model.map_or(Ok(bundled::COUNTDOWN), ModelSource::open)?;
    let mut backend = CandleBackend::load(&source, DeviceChoice::Cpu)?;
    let config = backend.config().clone();
    let checkpoint = Checkpoint::open(&source, "model")?;
    let formats = checkpoint.formats();
    let holding = Holding::Auto.of_model(checkpoint.weights(), &formats);
    // Norms of a quantised file are f32: the matrices' format is the last one.
    let format = holding.of(formats.last().copied().unwrap_or(Format::F32));
    let most = flags.streams.iter().copied().max().unwrap_or(1).max(1);
    for slot in slots(most) {
        backend.open_slot(slot, flags.canvas)?;
    }
    let name = model.map_or("the bundled model".into(), |model| model.display().to_string());
    println!("\n### {name}, held as {}", format.name());
    let answer = flags.canvas / 2;
    let refresh = batch(1, 0..flags.canvas, flags.canvas, flags.canvas - answer..flags.canvas);
    let mut steps = vec![(format!("refresh of {} rows", flags.canvas), refresh)];
    for streams in &flags.streams {
        let block = flags.canvas - flags.block..flags.canvas;
        let refinement = batch(*streams, block.clone(), flags.canvas, block);
        steps.push((format!("refinement of {streams} x {} rows", flags.block), refinement));
    }
    for (title, step) in &steps {
        let measured = measure(&mut backend, step, spans)?;
        let work = work(&config, format, step);
        println!("\n{title}, visible {}:\n", flags.canvas);
        print(&measured, &work, format, limits);
    }
    Ok(())
}

fn slots(count: usize) -> impl Iterator<Item = SlotId> {
    (0..).take(count).map(|index| SlotId { index, generation: 0 })
}

/// A step of several streams alike: hard rows before the targets, mixtures in them.
fn batch(
    streams: usize,
    window: std::ops::Range<usize>,
    visible: usize,
    targets: std::ops::Range<usize>,
) -> StepBatch {
    let mut batch = StepBatch { top_k: 3, ..StepBatch::default() };
    for slot in slots(streams) {
        for (id, position) in (4u32..).zip(window.clone()) {
            let id = 4 + id % 500;
            match targets.contains(&position) {
                true => batch.push_row((0..4).map(|other| (4 + (id + other) % 500, 0.25))),
                false => batch.push_row([(id, 1.0)]),
            }
        }
        let (window, targets) = (window.clone(), targets.clone());
        batch.segments.push(Segment { slot, adapter: None, window, visible, targets, sampling: None });
    }
    batch
}

/// Median seconds: of whole steps, and by phase.
struct Measured {
    whole: f64,
    phases: BTreeMap<&'static str, f64>,
}

fn measure(backend: &mut CandleBackend, step: &StepBatch, spans: &Spans) -> Result<Measured> {
    let (mut whole, mut phases) = (Vec::new(), BTreeMap::<&'static str, Vec<f64>>::new());
    backend.step(step)?;
    spans.take();
    for _ in 0..STEPS {
        let start = Instant::now();
        backend.step(step)?;
        whole.push(start.elapsed().as_secs_f64());
        for (name, seconds) in spans.take() {
            phases.entry(name).or_default().push(seconds);
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let phases = phases.into_iter().map(|(name, values)| (name, median(values))).collect();
    Ok(Measured { whole: median(whole), phases })
}

/// Operations and bytes of a phase.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    operations: f64,
    bytes: f64,
    /// Whether the operations are those of products with weights.
    weights: bool,
}

/// What each phase has to do, by the names of the spans, in the order of a pass.
fn work(config: &ModelConfig, format: Format, step: &StepBatch) -> [(&'static str, Work); 10] {
    let (rows, needed, layers) = (step.rows(), step.needed(), config.layers);
    let (width, kv, mlp) = (config.width, config.kv_width(), config.mlp);
    let matrices =
        [[width, width], [kv, width], [kv, width], [width, width], [mlp, width], [mlp, width], [width, mlp]];
    let f32s = |count: usize| (4 * count) as f64;
    let elementwise = |values: usize| Work { bytes: f32s(values), ..Work::default() };
    let product = |matrices: &[[usize; 2]], rows: usize| {
        let weights: usize = matrices.iter().map(|shape| Packed::bytes_as(*shape, format)).sum();
        let values: usize = matrices.iter().map(|[out, input]| rows * (out + input)).sum();
        let products: usize = matrices.iter().map(|[out, input]| out * input).sum();
        Work { operations: (2 * rows * products) as f64, bytes: weights as f64 + f32s(values), weights: true }
    };
    let linear = product(&matrices, rows);
    let linear = Work {
        operations: linear.operations * layers as f64,
        bytes: linear.bytes * layers as f64,
        weights: true,
    };
    let seen: usize = step.segments.iter().map(|s| s.window.len() * s.visible).sum();
    let read: usize = step.segments.iter().map(|s| 2 * s.visible * kv).sum();
    let attention = Work {
        operations: (4 * seen * width * layers) as f64,
        bytes: f32s((read + 2 * rows * width) * layers),
        weights: false,
    };
    [
        ("embed", elementwise(step.pairs.len() * width + rows * width)),
        ("norm", elementwise(layers * 2 * 2 * rows * width)),
        ("linear", linear),
        ("rotary", elementwise(layers * 2 * rows * (width + kv))),
        ("write", elementwise(layers * 2 * 2 * rows * kv)),
        ("attention", attention),
        ("swiglu", elementwise(layers * 3 * rows * mlp)),
        ("residual", elementwise(layers * 2 * 3 * rows * width)),
        ("head", product(&[[config.vocab, width]], needed)),
        ("candidates", elementwise(needed * config.vocab)),
    ]
}

/// A line per phase, and how much of its limit it reaches.
fn print(measured: &Measured, work: &[(&'static str, Work)], format: Format, limits: &Limits) {
    println!("| phase | ms | share | GFLOP | MB | limit, ms | of the limit |\n|---|---|---|---|---|---|---|");
    let (mut all, mut least) = (0.0, 0.0);
    for (name, Work { operations, bytes, weights }) in work {
        let Some(seconds) = measured.phases.get(name) else { continue };
        let peak = if *weights { limits.peak(format) } else { limits.peak(Format::F32) };
        let limit = (operations / peak / 1e9).max(bytes / limits.read / 1e9);
        all += seconds;
        least += limit;
        line(name, (*seconds, measured.whole), (*operations, *bytes), limit);
    }
    line("between them", (measured.whole - all, measured.whole), (0.0, 0.0), 0.0);
    let total = |of: fn(&Work) -> f64| work.iter().map(|(_, work)| of(work)).sum::<f64>();
    line("whole", (measured.whole, measured.whole), (total(|w| w.operations), total(|w| w.bytes)), least);
}

fn line(name: &str, (seconds, whole): (f64, f64), (operations, bytes): (f64, f64), limit: f64) {
    println!(
        "| {name} | {:.3} | {:.1} % | {:.2} | {:.1} | {:.3} | {:.0} % |",
        1e3 * seconds,
        100.0 * seconds / whole,
        operations / 1e9,
        bytes / 1e6,
        1e3 * limit,
        100.0 * limit / seconds
    );
}
