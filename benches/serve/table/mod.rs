//! Comparisons with peers and with itself, each with what it should show.

mod against;
mod itself;

use std::path::PathBuf;

use anyhow::Result;

use crate::Flags;
use crate::compare::Sample;
use crate::peers::Peers;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Topic {
    /// One stream of the small model and of the slice of an 8B model against PyTorch, f32 and bf16.
    Stream,
    /// Eight streams of different lengths against PyTorch's lock step.
    Ragged,
    /// Eight streams against one.
    Aggregate,
    /// Quantised weights against llama.cpp: a step over the whole canvas, and an answer end to end.
    Quantised,
    /// EvoToken's refinement against that of hard masks, with every cache.
    Methods,
    /// A refinement of eight streams against the best matrix product there is.
    Peak,
    /// What a tick costs beside the forward pass.
    Overhead,
    /// Two threads against one while another program keeps a core busy.
    Busy,
}

const ALL: [Topic; 8] = [
    Topic::Stream,
    Topic::Ragged,
    Topic::Aggregate,
    Topic::Quantised,
    Topic::Methods,
    Topic::Peak,
    Topic::Overhead,
    Topic::Busy,
];

/// Print the rows of all topics, or of some.
pub fn print(flags: &Flags, peers: &Peers, topics: &[Topic]) -> Result<()> {
    println!("Medians of {} rounds in turns; least and greatest in brackets.\n", flags.rounds);
    println!(
        "| work | threads | ours | against | ratio | at least, aim | reached |\n|---|---|---|---|---|---|---|"
    );
    let scene = Scene { flags, peers };
    for topic in if topics.is_empty() { &ALL } else { topics } {
        for threads in &flags.threads {
            match topic {
                Topic::Stream => against::stream(&scene, *threads)?,
                Topic::Ragged => against::ragged(&scene, *threads)?,
                Topic::Quantised => against::quantised(&scene, *threads)?,
                Topic::Aggregate => itself::aggregate(&scene, *threads)?,
                Topic::Methods => itself::methods(&scene, *threads)?,
                Topic::Peak => itself::peak(&scene, *threads)?,
                Topic::Overhead => itself::overhead(&scene, *threads)?,
                Topic::Busy => {}
            }
        }
        if *topic == Topic::Busy {
            itself::busy(&scene)?;
        }
    }
    Ok(())
}

/// What all comparisons need.
struct Scene<'a> {
    flags: &'a Flags,
    peers: &'a Peers,
}

impl Scene<'_> {
    fn model(&self, name: &str) -> PathBuf {
        self.flags.models.join(name)
    }
}

/// A line of the table.
struct Row {
    work: String,
    threads: usize,
    ours: String,
    against: String,
    /// More is better, but for a share.
    ratio: Sample,
    goal: Goal,
}

/// What a row should show.
enum Goal {
    /// At least this much, better that much.
    Ratio(f64, f64),
    /// A share in percent: at most this much, better that much.
    Share(f64, f64),
    /// Nothing: it is told.
    Told,
}

impl Row {
    fn print(&self) {
        let median = self.ratio.median();
        let verdict = |good: bool, best: bool| match (best, good) {
            (true, _) => "aim",
            (_, true) => "yes",
            _ => "no",
        };
        let (goal, reached) = match self.goal {
            Goal::Ratio(least, aim) => (format!("{least}, {aim}"), verdict(median >= least, median >= aim)),
            Goal::Share(most, aim) => (format!("{most} %, {aim} %"), verdict(median <= most, median <= aim)),
            Goal::Told => (String::new(), ""),
        };
        let Self { work, threads, ours, against, ratio, .. } = self;
        println!("| {work} | {threads} | {ours} | {against} | {ratio} | {goal} | {reached} |");
    }
}

/// tokens/s with one digit.
fn speed(sample: &Sample) -> String {
    format!("{:.1} tokens/s", sample.median())
}
