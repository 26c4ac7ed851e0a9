//! Tokens per second as one thing grows and the rest stays.

mod plot;

use anyhow::{Context, Result};
use evotoken::model::ModelConfig;

use crate::compare::Sample;
use crate::server::Server;
use crate::work::{COLUMNS, Work, cells, run};
use crate::{Flags, adapters, start};
use plot::Panel;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Axis {
    /// Clients at once.
    Concurrency,
    /// Tokens of the prompt.
    Prompt,
    /// Tokens of the answer.
    Answer,
    /// Different adapters among eight streams.
    Adapters,
}

const ALL: [Axis; 4] = [Axis::Concurrency, Axis::Prompt, Axis::Answer, Axis::Adapters];

impl Axis {
    fn values(self) -> &'static [usize] {
        match self {
            Self::Concurrency => &[1, 2, 4, 8, 16, 32, 64],
            Self::Prompt => &[32, 64, 128, 256, 512, 1024, 2048, 3072],
            Self::Answer => &[32, 64, 128, 256, 512, 1024],
            Self::Adapters => &[0, 1, 2, 4, 8],
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Concurrency => "streams at once",
            Self::Prompt => "tokens of the prompt",
            Self::Answer => "tokens of the answer",
            Self::Adapters => "adapters among 8 streams",
        }
    }

    /// The work of all clients, and how many there are.
    fn work(self, value: usize, names: &[String]) -> (Vec<Work>, usize) {
        let usual = Work::new(128, 64);
        match self {
            Self::Concurrency => (vec![usual; value.max(2)], value),
            Self::Prompt => (vec![Work { prompt: value, ..usual }], 1),
            Self::Answer => (vec![Work::new(128, value)], 1),
            Self::Adapters => {
                let adapter = |stream: usize| (value > 0).then(|| names[stream % value].clone());
                ((0..16).map(|stream| Work { adapter: adapter(stream), ..usual.clone() }).collect(), 8)
            }
        }
    }
}

/// Print a table for each axis, or for some, and draw them.
pub fn print(flags: &Flags, axes: &[Axis]) -> Result<()> {
    let threads = *flags.threads.last().context("no number of threads")?;
    let name = flags.model.as_ref().map_or("the bundled model".into(), |model| model.display().to_string());
    println!("## {name}, {threads} threads\n");
    println!(
        "Prompt 128, answer 64 (two tokens a step), one stream, where nothing else is said. Medians of {} rounds.\n",
        flags.rounds
    );
    let folder = tempfile::tempdir()?;
    let (plain, config) = start(flags.model.as_ref(), threads, &[])?;
    let mut panels = Vec::new();
    for axis in if axes.is_empty() { &ALL } else { axes } {
        let mut names = Vec::new();
        let adapted = match axis {
            Axis::Adapters => {
                let (loads, all) = adapters::write(folder.path(), &config, 8)?;
                names = all;
                Some(start(flags.model.as_ref(), threads, &loads)?.0)
            }
            _ => None,
        };
        let server = adapted.as_ref().unwrap_or(&plain);
        panels.push(Panel { title: axis.title(), points: sweep(flags, (server, &config), *axis, &names)? });
    }
    if let Some(file) = &flags.plot {
        std::fs::write(file, plot::draw(&panels)?)?;
    }
    Ok(())
}

/// One table; (value, tokens/s) of each row.
fn sweep(
    flags: &Flags,
    (server, config): (&Server, &ModelConfig),
    axis: Axis,
    names: &[String],
) -> Result<Vec<(f64, f64)>> {
    println!("| {} | {COLUMNS} |\n|---|---|---|---|---|---|---|", axis.title());
    let mut points = Vec::new();
    let warm = Work::new(32, 32);
    run(server, config, &[warm], 1)?;
    for value in axis.values() {
        let (works, clients) = axis.work(*value, names);
        // A canvas that the model has no positions for.
        if works.iter().any(|work| work.prompt + work.answer > config.max_positions) {
            continue;
        }
        let mut runs = Vec::new();
        for _ in 0..flags.rounds {
            runs.push(run(server, config, &works, clients)?);
        }
        println!("| {value} | {} |", cells(&runs));
        let mut speed = Sample::default();
        runs.iter().for_each(|run| speed.push(run.tokens_per_second()));
        points.push((*value as f64, speed.median()));
    }
    println!();
    Ok(points)
}
