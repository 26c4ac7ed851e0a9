//! Against itself, and against the machine.

use std::process::{Child, Command};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use evotoken::backend::candidates::candidates;
use evotoken::model::ModelConfig;
use evotoken::model::product::Packed;
use evotoken::model::stored::{Format, Stored};
use evotoken::rng;

use super::{Goal, Row, Scene, speed};
use crate::compare::{Sample, Side, interleave};
use crate::start;
use crate::work::{Work, run};

/// Eight clients against one.
pub fn aggregate(scene: &Scene<'_>, threads: usize) -> Result<()> {
    let small = Work::new(128, 128);
    let models = [
        ("`small`, f32", Some("small-f32"), &small, 1, Goal::Ratio(1.2, 1.5)),
        ("`small`, bf16", Some("small-bf16"), &small, 1, Goal::Ratio(1.2, 1.5)),
        ("the bundled model", None, &Work::new(32, 64), 8, Goal::Ratio(3.0, 6.0)),
    ];
    for (name, folder, work, answers, goal) in models {
        let model = folder.map(|folder| scene.model(folder));
        let (server, config) = start(model.as_ref(), threads, &[])?;
        let (few, many) = (vec![work.clone(); answers], vec![work.clone(); 8 * answers]);
        run(&server, &config, &few, 1)?;
        let mut sides: Vec<Side<'_>> = vec![
            Box::new(|| Ok(run(&server, &config, &many, 8)?.tokens_per_second())),
            Box::new(|| Ok(run(&server, &config, &few, 1)?.tokens_per_second())),
        ];
        let found = interleave(scene.flags.rounds, &mut sides)?;
        Row {
            work: format!("8 streams against one, {name}"),
            threads,
            ours: speed(&found[0]),
            against: format!("one: {}", speed(&found[1])),
            ratio: found[0].over(&found[1]),
            goal,
        }
        .print();
    }
    Ok(())
}

/// EvoToken's refinements against those of hard masks.
pub fn methods(scene: &Scene<'_>, threads: usize) -> Result<()> {
    for name in ["small-f32", "small-bf16"] {
        let (server, config) = start(Some(&scene.model(name)), threads, &[])?;
        for (cache, goal) in [("dual", Goal::Ratio(0.95, 0.98)), ("prefix", Goal::Told), ("none", Goal::Told)]
        {
            // Without a cache every step is a refresh; a dual one has so short steps that it needs more of them.
            let steps = if cache == "dual" { 64 } else { 16 };
            let work = |method| Work { method, cache, steps, ..Work::new(128, 128) };
            let (soft, hard) = (work("evotoken"), work("mask"));
            let ms = |work: &Work| {
                let counts = run(&server, &config, std::slice::from_ref(work), 1)?.counts;
                Ok(if cache == "none" { counts.refresh.ms() } else { counts.refinement.ms() })
            };
            ms(&soft)?;
            let mut sides: Vec<Side<'_>> = vec![Box::new(|| ms(&soft)), Box::new(|| ms(&hard))];
            let found = interleave(scene.flags.rounds, &mut sides)?;
            let predicted = operations(&config, &hard) / operations(&config, &soft);
            Row {
                work: format!(
                    "step of EvoToken against hard masks, `{name}`, cache {cache} (predicted {predicted:.2})"
                ),
                threads,
                ours: format!("{:.1} ms", found[0].median()),
                against: format!("hard masks: {:.1} ms", found[1].median()),
                ratio: found[1].over(&found[0]),
                goal,
            }
            .print();
        }
    }
    Ok(())
}

/// Operations of all steps behind each block's first one (without a cache: of all).
fn operations(config: &ModelConfig, work: &Work) -> f64 {
    let canvas = work.prompt + work.answer;
    let blocks = work.answer / work.block;
    let blocks = (0..blocks).map(|block| {
        let lo = work.prompt + block * work.block;
        let window = match work.cache {
            "none" => canvas,
            "prefix" => canvas - lo,
            _ => work.block,
        };
        let needed = if work.method == "mask" { work.block } else { window.min(canvas - lo) };
        pass(config, window, canvas, needed)
    });
    blocks.sum()
}

/// Operations of a pass: rows through all layers, each seeing `visible` positions, and the needed ones through the head.
fn pass(config: &ModelConfig, rows: usize, visible: usize, needed: usize) -> f64 {
    let (width, kv) = (config.width, config.kv_width());
    let layer = 2 * (2 * width * width + 2 * width * kv + 3 * width * config.mlp) + 4 * visible * width;
    (rows * layer * config.layers + 2 * needed * width * config.vocab) as f64
}

/// Refinements of eight streams that step together, as a part of the best product of bf16 matrices.
pub fn peak(scene: &Scene<'_>, threads: usize) -> Result<()> {
    let (server, config) = start(Some(&scene.model("slice8b-bf16")), threads, &[])?;
    let work = Work { choices: 8, steps: 8, ..Work::new(96, 32) };
    let operations = pass(&config, 8 * 32, 128, 8 * 32);
    run(&server, &config, std::slice::from_ref(&work), 1)?;
    let own = Device::Cpu;
    let weight =
        Packed::pack(&Stored::of_tensor(&Tensor::randn(0f32, 1.0, (4096, 4096), &own)?)?, Format::Bf16)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let rows = Tensor::randn(0f32, 1.0, (256, 4096), &own)?;
    let kernel = || -> Result<f64> {
        let product = || {
            (0..12).map(|_| -> Result<f64> {
                let start = Instant::now();
                weight.product(&rows)?;
                Ok(2.0 * 256.0 * 4096.0 * 4096.0 / start.elapsed().as_secs_f64() / 1e9)
            })
        };
        pool.install(|| product().try_fold(0.0, |best: f64, speed| Ok(best.max(speed?))))
    };
    let mut sides: Vec<Side<'_>> = vec![
        Box::new(|| {
            let counts = run(&server, &config, std::slice::from_ref(&work), 1)?.counts;
            Ok(operations / counts.refinement.ms() / 1e6)
        }),
        Box::new(|| Ok(scene.peers.peak("bf16", threads)?.unwrap_or(f64::NAN))),
        Box::new(kernel),
    ];
    let found = interleave(scene.flags.rounds, &mut sides)?;
    let best = if found[1].median().is_nan() { &found[2] } else { &found[1] };
    Row {
        work: "refinement of 8 streams (256 rows), `slice8b`, bf16".to_owned(),
        threads,
        ours: format!("{:.0} GFLOP/s", found[0].median()),
        against: format!(
            "products of 256 and 1,024 x 4,096 x 4,096: PyTorch {:.0}, our kernel (256) {:.0} GFLOP/s",
            found[1].median(),
            found[2].median()
        ),
        ratio: found[0].over(best),
        goal: Goal::Ratio(0.7, 0.9),
    }
    .print();
    Ok(())
}

/// What a tick of the bundled model costs beside its forward pass, as a share of the pass.
pub fn overhead(scene: &Scene<'_>, threads: usize) -> Result<()> {
    let (server, config) = start(None, threads, &[])?;
    for clients in [1, 8] {
        let works = vec![Work::new(32, 64); 16 * clients];
        run(&server, &config, &works, clients)?;
        let (mut share, mut pass, mut rest) = (Sample::default(), Sample::default(), Sample::default());
        for _ in 0..scene.flags.rounds {
            let run = run(&server, &config, &works, clients)?;
            // The server's time of a step holds the sampling of its rows, a block's for each stream.
            let sampling = run.counts.ticks * sampling(32 * clients, config.vocab, threads)?;
            let inside = run.counts.seconds() - sampling;
            share.push(100.0 * (run.seconds - inside) / inside);
            pass.push(1e3 * inside / run.counts.ticks);
            rest.push(1e3 * (run.seconds - inside) / run.counts.ticks);
        }
        Row {
            work: format!(
                "HTTP, scheduling, decoding and sampling per tick, the bundled model, {clients} streams, % of the pass"
            ),
            threads,
            ours: format!("{:.3} ms", rest.median()),
            against: format!("forward pass: {:.3} ms", pass.median()),
            ratio: share,
            goal: Goal::Share(15.0, 5.0),
        }
        .print();
    }
    Ok(())
}

/// Seconds in which rows of logits become candidates.
fn sampling(rows: usize, vocab: usize, threads: usize) -> Result<f64> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let logits: Vec<f32> = (0..(rows * vocab) as u64).map(|at| rng::uniform(1, at) as f32).collect();
    let mut sample = Sample::default();
    pool.install(|| {
        for _ in 0..20 {
            let start = Instant::now();
            std::hint::black_box(candidates(&logits, 1, 3, &vec![None; rows]));
            sample.push(start.elapsed().as_secs_f64());
        }
    });
    Ok(sample.median())
}

/// A program that never waits, on the first core.
struct Spinner(Child);

impl Spinner {
    fn start() -> Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "sh", "-c", "while :; do :; done"]);
        Ok(Self(command.spawn().context("taskset (util-linux) keeps a program on a core")?))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // One that is gone already needs no end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two threads on two cores of which one is busy, against one thread.
pub fn busy(scene: &Scene<'_>) -> Result<()> {
    for (name, folder, work) in [
        ("`small`, bf16", Some("small-bf16"), Work::new(128, 64)),
        ("the bundled model", None, Work::new(32, 64)),
    ] {
        let model = folder.map(|folder| scene.model(folder));
        let (two, config) = start(model.as_ref(), 2, &[])?;
        let (one, _) = start(model.as_ref(), 1, &[])?;
        let works = vec![work; if folder.is_some() { 1 } else { 16 }];
        run(&two, &config, &works, 1)?;
        run(&one, &config, &works, 1)?;
        let spinner = Spinner::start()?;
        let mut sides: Vec<Side<'_>> = vec![
            Box::new(|| Ok(run(&two, &config, &works, 1)?.tokens_per_second())),
            Box::new(|| Ok(run(&one, &config, &works, 1)?.tokens_per_second())),
        ];
        let found = interleave(scene.flags.rounds, &mut sides)?;
        drop(spinner);
        Row {
            work: format!("two threads against one, another program busy on a core, {name}"),
            threads: 2,
            ours: speed(&found[0]),
            against: format!("one thread: {}", speed(&found[1])),
            ratio: found[0].over(&found[1]),
            goal: Goal::Ratio(0.9, 1.0),
        }
        .print();
    }
    Ok(())
}
