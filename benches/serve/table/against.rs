//! Against other engines.

use anyhow::{Context, Result, ensure};

use super::{Goal, Row, Scene, speed};
use crate::compare::{Sample, Side, interleave};
use crate::peers::Report;
use crate::start;
use crate::work::{Work, run};

/// One stream: the small model, and two layers of an 8B model.
pub fn stream(scene: &Scene<'_>, threads: usize) -> Result<()> {
    let small = Work::new(128, 128);
    // Fewer steps of a block: the slice's cost many times as much.
    let slice = Work { steps: 16, ..Work::new(128, 64) };
    for (dtype, least, aim) in [("f32", 1.5, 2.5), ("bf16", 1.2, 2.0)] {
        for (name, work) in [("small", &small), ("slice8b", &slice)] {
            one_stream(scene, threads, (name, dtype), work, Goal::Ratio(least, aim))?;
        }
    }
    Ok(())
}

fn one_stream(
    scene: &Scene<'_>,
    threads: usize,
    (name, dtype): (&str, &str),
    work: &Work,
    goal: Goal,
) -> Result<()> {
    let model = scene.model(&format!("{name}-{dtype}"));
    let (server, config) = start(Some(&model), threads, &[])?;
    let works = std::slice::from_ref(work);
    let mut steps = [Sample::default(), Sample::default(), Sample::default(), Sample::default()];
    let [our_refresh, our_refinement, refresh, refinement] = &mut steps;
    let nfe = run(&server, &config, works, 1)?.nfe;
    let mut sides: Vec<Side<'_>> = vec![
        Box::new(|| {
            let run = run(&server, &config, works, 1)?;
            our_refresh.push(run.counts.refresh.ms());
            our_refinement.push(run.counts.refinement.ms());
            Ok(run.tokens_per_second())
        }),
        Box::new(|| {
            let report = scene.peers.torch(&model, work, dtype, 1, threads)?;
            let Some(report) = report else { return Ok(f64::NAN) };
            ensure!(report.nfe == nfe, "{} forward passes of PyTorch against our {nfe}", report.nfe);
            refresh.push(report.refresh_ms.unwrap_or(f64::NAN));
            refinement.push(report.refine_ms.unwrap_or(f64::NAN));
            Ok(work.answer as f64 / report.seconds)
        }),
    ];
    let found = interleave(scene.flags.rounds, &mut sides)?;
    drop(sides);
    let cell = |found: &Sample, refresh: &Sample, refinement: &Sample| {
        let (refresh, refinement) = (refresh.median(), refinement.median());
        format!("{} (refresh {refresh:.0} ms, refinement {refinement:.1})", speed(found))
    };
    Row {
        work: format!("one stream, `{name}`, {dtype}, {nfe} forward passes"),
        threads,
        ours: cell(&found[0], &steps[0], &steps[1]),
        against: format!("PyTorch {dtype}: {}", cell(&found[1], &steps[2], &steps[3])),
        ratio: found[0].over(&found[1]),
        goal,
    }
    .print();
    Ok(())
}

/// Eight streams at once, against a batch that goes on until its longest is done.
pub fn ragged(scene: &Scene<'_>, threads: usize) -> Result<()> {
    let lengths = [(32, 256), (96, 64), (160, 128), (224, 32), (288, 192), (352, 96), (448, 224), (512, 160)];
    let works: Vec<Work> = lengths.iter().map(|(prompt, answer)| Work::new(*prompt, *answer)).collect();
    let padded = Work::new(512, 256);
    let tokens: usize = works.iter().map(|work| work.answer).sum();
    let model = scene.model("small-bf16");
    let (server, config) = start(Some(&model), threads, &[])?;
    run(&server, &config, &works[1..2], 1)?;
    let mut sides: Vec<Side<'_>> = vec![
        Box::new(|| Ok(run(&server, &config, &works, works.len())?.tokens_per_second())),
        Box::new(|| {
            let report = scene.peers.torch(&model, &padded, "bf16", works.len(), threads)?;
            Ok(report.map_or(f64::NAN, |report| tokens as f64 / report.seconds))
        }),
    ];
    let found = interleave(scene.flags.rounds, &mut sides)?;
    Row {
        work: format!("8 streams, `small`, bf16, prompts 32 to 512, answers 32 to 256 ({tokens} tokens)"),
        threads,
        ours: speed(&found[0]),
        against: format!("PyTorch bf16, 8 in lock step, padded: {}", speed(&found[1])),
        ratio: found[0].over(&found[1]),
        goal: Goal::Ratio(1.5, 3.0),
    }
    .print();
    Ok(())
}

/// The same quantised file: llama.cpp has no cache, so a step of both is the whole canvas; then ours as it likes.
pub fn quantised(scene: &Scene<'_>, threads: usize) -> Result<()> {
    for format in ["q8_0", "q4_k_m"] {
        let model = scene.model(&format!("small-{format}.gguf"));
        let (server, config) = start(Some(&model), threads, &[])?;
        let full = Work { method: "mask", cache: "none", ..Work::new(128, 64) };
        let dual = Work { cache: "dual", ..full.clone() };
        let nfe = run(&server, &config, std::slice::from_ref(&dual), 1)?.nfe;
        let mut step = Sample::default();
        let mut their_step = Sample::default();
        let mut sides: Vec<Side<'_>> = vec![
            Box::new(|| {
                let run = run(&server, &config, std::slice::from_ref(&full), 1)?;
                step.push(run.counts.refresh.ms());
                Ok(run.tokens_per_second())
            }),
            Box::new(|| Ok(run(&server, &config, std::slice::from_ref(&dual), 1)?.tokens_per_second())),
            Box::new(|| {
                let Some(report) = scene.peers.llama(&model, &config, &full, threads)? else {
                    return Ok(f64::NAN);
                };
                let Report { nfe: theirs, step_ms, seconds, .. } = report;
                ensure!(theirs == nfe, "{theirs} forward passes of llama.cpp against our {nfe}");
                their_step.push(step_ms.context("llama.cpp says no time of a step")?);
                Ok(full.answer as f64 / seconds)
            }),
        ];
        let found = interleave(scene.flags.rounds, &mut sides)?;
        drop(sides);
        let (step, their_step) = (step.median(), their_step.median());
        let against = format!("llama.cpp: {} (step {their_step:.0} ms)", speed(&found[2]));
        Row {
            work: format!("{format}, whole canvas of 192, hard masks"),
            threads,
            ours: format!("{} (step {step:.0} ms)", speed(&found[0])),
            against: against.clone(),
            ratio: found[0].over(&found[2]),
            goal: Goal::Ratio(1.0, 1.5),
        }
        .print();
        Row {
            work: format!("{format}, the same answer end to end, dual cache"),
            threads,
            ours: speed(&found[1]),
            against,
            ratio: found[1].over(&found[2]),
            goal: Goal::Ratio(4.0, 8.0),
        }
        .print();
    }
    Ok(())
}
