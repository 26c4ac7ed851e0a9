//! Steps of a model on a device, beside what its memory and arithmetic allow, and whether answers depend on their company:
//! `cargo bench --features cuda --bench device -- --device cuda:0 --model DIR --read 3350 --flops 989`. `just gpu-check` runs it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use evotoken::backend::device::{DeviceChoice, Placement};
use evotoken::backend::{CandleBackend, PoolChoice};
use evotoken::decode::DecodeOptions;
use evotoken::engine::batch::{Backend, Segment, SlotId, StepBatch};
use evotoken::engine::request::{Draft, GenerateRequest, Limits};
use evotoken::engine::{self, BlockEvent, EngineHandle, EngineLimits, ModelInfo, Reader};
use evotoken::model::kv::gathered::Ragged;
use evotoken::model::product::Holding;
use evotoken::model::{ModelConfig, ModelSource, bundled};
use evotoken::telemetry::Metrics;

/// Steps that are timed, after one that is not.
const STEPS: usize = 15;

/// Steps of a model on a device, and whether answers depend on their company.
#[derive(Debug, Parser)]
struct Flags {
    /// Where the model runs; `cpu`: by the operations of a device
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Model folder or GGUF file, instead of the bundled model
    #[arg(long)]
    model: Option<PathBuf>,
    /// In which format weight matrices are held: auto, f32 or bf16
    #[arg(long, default_value = "auto")]
    weights: Holding,
    /// How streams of different lengths attend, where there is a choice
    #[arg(long)]
    ragged: Option<Ragged>,
    /// Canvas of each stream
    #[arg(long, default_value_t = 256)]
    canvas: usize,
    /// Positions of a block
    #[arg(long, default_value_t = 32)]
    block: usize,
    /// Streams whose refinements share a pass
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    streams: Vec<usize>,
    /// What the device reads of its memory, in GB/s; without it no floor is shown
    #[arg(long)]
    read: Option<f64>,
    /// What the device multiplies, in TFLOP/s of the weights' format
    #[arg(long)]
    flops: Option<f64>,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let source = flags.model.as_deref().map_or(Ok(bundled::COUNTDOWN), ModelSource::open)?;
    let most = flags.streams.iter().copied().max().unwrap_or(1).max(1);
    let placement = Placement { device: flags.device, holding: flags.weights };
    let bytes = Some(kv_bytes(&source, most * flags.canvas)?);
    let mut backend =
        CandleBackend::load_pooled(&source, placement, PoolChoice { bytes, ragged: flags.ragged })?;
    let value_bytes =
        backend.bytes_per_position() / (2 * backend.config().layers * backend.config().kv_width());
    println!("{} on {}, matrices of {value_bytes} bytes a number\n", source.name(), flags.device);
    steps(&flags, &mut backend, value_bytes)?;
    alike(&flags, backend, most)
}

/// K/V memory of so many positions, of f32 at most.
fn kv_bytes(source: &ModelSource, positions: usize) -> Result<usize> {
    let config = ModelConfig::load(source)?;
    Ok(positions * config.layers * 2 * config.kv_width() * size_of::<f32>())
}

/// A table of a refresh of one stream, and of refinements of one and of several.
fn steps(flags: &Flags, backend: &mut CandleBackend, value_bytes: usize) -> Result<()> {
    let (canvas, most) = (flags.canvas, flags.streams.iter().copied().max().unwrap_or(1));
    ensure!(
        canvas > flags.block && canvas <= backend.config().max_positions,
        "no canvas of {canvas} positions"
    );
    for slot in slots(most) {
        backend.open_slot(slot, canvas)?;
    }
    println!(
        "| step | rows | ms, median | GB read | GFLOP | floor, ms | of the floor | launches | up, bytes | down, bytes |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let block = canvas - flags.block..canvas;
    let mut all = vec![("refresh".to_owned(), batch(1, 0..canvas, canvas, block.clone()))];
    for streams in &flags.streams {
        all.push((format!("refinement x {streams}"), batch(*streams, block.clone(), canvas, block.clone())));
    }
    for (name, step) in &all {
        let before = backend.tally();
        backend.step(step)?;
        let asked = backend.tally().since(before);
        let mut seconds = (0..STEPS)
            .map(|_| {
                let start = Instant::now();
                backend.step(step)?;
                Ok(start.elapsed().as_secs_f64())
            })
            .collect::<Result<Vec<f64>>>()?;
        seconds.sort_by(f64::total_cmp);
        let median = seconds[STEPS / 2];
        let (bytes, operations) = work(backend.config(), step, value_bytes);
        let floor = flags
            .read
            .zip(flags.flops)
            .map(|(read, flops)| (bytes / read / 1e9).max(operations / flops / 1e12));
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        println!(
            "| {name} | {} | {:.3} | {:.3} | {:.2} | {} | {} | {} | {} | {} |",
            step.rows(),
            1e3 * median,
            bytes / 1e9,
            operations / 1e9,
            shown(floor.map(|floor| format!("{:.3}", 1e3 * floor))),
            shown(floor.map(|floor| format!("{:.1} times", median / floor))),
            asked.launches,
            asked.uploaded_bytes,
            asked.downloaded_bytes
        );
    }
    slots(most).for_each(|slot| backend.close_slot(slot));
    Ok(())
}

fn slots(count: usize) -> impl Iterator<Item = SlotId> {
    (0..).take(count).map(|index| SlotId { index, generation: 0 })
}

/// A step of several streams alike: hard rows before the targets, mixtures in them.
fn batch(streams: usize, window: Range<usize>, visible: usize, targets: Range<usize>) -> StepBatch {
    let mut batch = StepBatch { top_k: 3, ..StepBatch::default() };
    for slot in slots(streams) {
        for (id, position) in (4u32..).zip(window.clone()) {
            match targets.contains(&position) {
                true => batch.push_row((0..4).map(|other| (4 + (id + other) % 50, 0.25))),
                false => batch.push_row([(4 + id % 50, 1.0)]),
            }
        }
        let (window, targets) = (window.clone(), targets.clone());
        batch.segments.push(Segment { slot, adapter: None, window, visible, targets, sampling: None });
    }
    batch
}

/// Bytes of weights and K/V that a step must read, and its operations.
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn work(config: &ModelConfig, step: &StepBatch, value_bytes: usize) -> (f64, f64) {
    let ModelConfig { width, mlp, layers, vocab, .. } = *config;
    let layer = 2 * width * (width + config.kv_width()) + 3 * width * mlp;
    let (rows, needed, head) = (step.rows(), step.needed(), width * vocab);
    let read: usize = step.segments.iter().map(|s| 2 * s.visible * config.kv_width()).sum();
    let seen: usize = step.segments.iter().map(|s| s.window.len() * s.visible).sum();
    let bytes = value_bytes * (layers * (layer + read) + head);
    let operations = 2 * rows * layers * layer + 2 * needed * head + 4 * seen * width * layers;
    (bytes as f64, operations as f64)
}

/// Whether answers are the same tokens alone and among others.
fn alike(flags: &Flags, backend: CandleBackend, most: usize) -> Result<()> {
    let config = backend.config().clone();
    let model = ModelInfo { mask_id: config.mask_id, eos_ids: Vec::new() };
    let limits = EngineLimits {
        queue: most,
        slots: most,
        kv_bytes: most * flags.canvas * backend.bytes_per_position(),
        prefix_cache_bytes: 0,
        rows_per_tick: 1 << 16,
        event_buffer: flags.canvas,
    };
    let engine = engine::start(backend, model, limits, Arc::new(Metrics::new()))?;
    let requests = (0..most).map(|number| request(flags, &config, number)).collect::<Result<Vec<_>>>()?;
    let alone = requests.iter().map(|request| answers(&engine, vec![request.clone()]));
    let alone = alone.collect::<Result<Vec<_>>>()?.concat();
    let start = Instant::now();
    let together = answers(&engine, requests)?;
    let seconds = start.elapsed().as_secs_f64();
    let same = std::iter::zip(&alone, &together).filter(|(alone, together)| alone == together).count();
    println!(
        "\n{same} of {most} answers are the same tokens alone and all at once ({:.1} answers/s at once)",
        {
            #[expect(clippy::cast_precision_loss, reason = "shown with a digit")]
            let speed = most as f64 / seconds;
            speed
        }
    );
    ensure!(same == most, "an answer depends on its company");
    Ok(())
}

fn request(flags: &Flags, config: &ModelConfig, number: usize) -> Result<GenerateRequest> {
    let limits = Limits {
        vocab: config.vocab,
        mask_id: config.mask_id,
        eos_ids: Vec::new(),
        max_canvas: flags.canvas,
        max_prompt_tokens: flags.canvas,
        max_new_tokens: flags.canvas,
        max_stop_strings: 0,
        max_scored_tokens: 0,
    };
    // Prompts of different lengths; no special tokens, which are the first or the last ones.
    let length = 8 + number % (flags.canvas / 4);
    let token = |at: usize| u32::try_from(4 + (at * 7 + number * 13) % (config.vocab / 2).min(90));
    let prompt = (0..length).map(token).collect::<Result<Vec<_>, _>>()?;
    let prompt = prompt.into_iter().filter(|id| *id != config.mask_id).collect();
    let decode = DecodeOptions { block_length: Some(flags.block), ..DecodeOptions::default() };
    let draft = Draft { decode, ..Draft::new(prompt, (2 * flags.block).min(flags.canvas - length)) };
    Ok(GenerateRequest::new(draft, &limits)?)
}

fn answers(engine: &EngineHandle, requests: Vec<GenerateRequest>) -> Result<Vec<Vec<u32>>> {
    engine.submit(requests, None)?.into_iter().map(answer).collect()
}

fn answer(mut reader: Reader) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    while let Some(event) = reader.blocking_recv() {
        match event {
            BlockEvent::Block { ids, .. } => all.extend(ids),
            BlockEvent::Failed(error) => bail!(error),
            _ => {}
        }
    }
    Ok(all)
}
