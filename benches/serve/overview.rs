//! One model at several concurrencies, and peers on the same work beside it.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::compare::{Side, interleave};
use crate::peers::Peers;
use crate::work::{COLUMNS, Work, cells, run};
use crate::{Flags, start};

/// Print a row per thread count and concurrency.
pub fn print(flags: &Flags, peers: &Peers) -> Result<()> {
    let name = flags.model.as_ref().map_or("the bundled model".into(), |model| model.display().to_string());
    println!("## {name}, prompt {}, answer {}\n", usual(flags).prompt, usual(flags).answer);
    println!("| threads | clients | {COLUMNS} |\n|---|---|---|---|---|---|---|---|");
    for threads in &flags.threads {
        let (server, config) = start(flags.model.as_ref(), *threads, &[])?;
        let work = usual(flags);
        run(&server, &config, std::slice::from_ref(&work), 1)?;
        for clients in &flags.concurrency {
            let works = vec![work.clone(); (2 * clients).max(4)];
            let mut runs = Vec::new();
            for _ in 0..flags.rounds {
                runs.push(run(&server, &config, &works, *clients)?);
            }
            println!("| {threads} | {clients} | {} |", cells(&runs));
        }
    }
    println!("\nMedians of {} rounds. A mixed tick carries refreshes and refinements.\n", flags.rounds);
    match &flags.model {
        Some(model) if flags.peers.is_some() => beside(flags, peers, model),
        _ => Ok(()),
    }
}

/// The bundled model's answers are short.
fn usual(flags: &Flags) -> Work {
    if flags.model.is_some() { Work::new(128, 128) } else { Work::new(32, 64) }
}

/// PyTorch and llama.cpp in turns with ours, one stream.
fn beside(flags: &Flags, peers: &Peers, model: &PathBuf) -> Result<()> {
    let is_gguf = model.is_file();
    for threads in &flags.threads {
        let (server, config) = start(Some(model), *threads, &[])?;
        let mut work = usual(flags);
        if is_gguf {
            (work.method, work.cache) = ("mask", "none");
        }
        let nfe = run(&server, &config, std::slice::from_ref(&work), 1)?.nfe;
        let peer = |dtype: &str| {
            let report = match is_gguf {
                true => peers.llama(model, &config, &work, *threads)?,
                false => peers.torch(model, &work, dtype, 1, *threads)?,
            };
            let Some(report) = report else { return Ok(f64::NAN) };
            ensure!(report.nfe == nfe, "{} forward passes against our {nfe}", report.nfe);
            Ok(work.answer as f64 / report.seconds)
        };
        let mut sides: Vec<Side<'_>> = vec![
            Box::new(|| Ok(run(&server, &config, std::slice::from_ref(&work), 1)?.tokens_per_second())),
            Box::new(|| peer("f32")),
            Box::new(|| if is_gguf { Ok(f64::NAN) } else { peer("bf16") }),
        ];
        let found = interleave(flags.rounds, &mut sides)?;
        let names = if is_gguf { ["llama.cpp", "nothing"] } else { ["PyTorch f32", "PyTorch bf16"] };
        for (name, theirs) in names.iter().zip(&found[1..]).filter(|(_, theirs)| !theirs.median().is_nan()) {
            let ratio = found[0].over(theirs);
            println!(
                "{threads} threads, one stream, {nfe} forward passes: ours {} tokens/s, {name} {theirs}, ratio {ratio}",
                found[0]
            );
        }
    }
    Ok(())
}
