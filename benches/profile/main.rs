//! Where the time of a step goes, and how far each part is from what the machine can do: `cargo bench --bench profile -- --help`.
//!
//! The spans of the network's phases are timed during real steps of a `CandleBackend`. Nobody listens to them in the server.

mod limits;
mod spans;
mod step;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use limits::Limits;

/// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where the time of a step goes, beside what the machine can do.
#[derive(Debug, Parser)]
struct Flags {
    /// Model folders or GGUF files, instead of the bundled model
    #[arg(long)]
    model: Vec<PathBuf>,
    /// Threads; each number in a process of its own
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    threads: Vec<usize>,
    /// Canvas of each stream
    #[arg(long, default_value_t = 256)]
    canvas: usize,
    /// Positions of a block
    #[arg(long, default_value_t = 32)]
    block: usize,
    /// Streams whose refinements share a pass
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    streams: Vec<usize>,
    /// A Python with PyTorch, whose products count as the machine's best where they are faster than ours
    #[arg(long, value_name = "PYTHON")]
    torch_python: Option<PathBuf>,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

/// The pool of threads has the size that its process began with.
const THREADS: &str = "RAYON_NUM_THREADS";

fn main() -> Result<()> {
    let flags = Flags::parse();
    let [threads] = flags.threads[..] else { return each(&flags.threads) };
    if std::env::var(THREADS).ok().as_deref() != Some(threads.to_string().as_str()) {
        return each(&[threads]);
    }
    // As the engine's thread does: one of the pool begins with its own share at once.
    let _pool = rayon::ThreadPoolBuilder::new().use_current_thread().build()?;
    let spans = spans::listen()?;
    let limits = Limits::measure(threads, flags.torch_python.as_deref())?;
    limits.print(threads);
    println!(
        "\nA phase's limit: its operations at the best product's speed, or its bytes at that of reading memory, whichever takes longer."
    );
    println!("Above 100 %: it works on what lies in a cache.");
    let models: Vec<Option<&PathBuf>> = match flags.model.is_empty() {
        true => vec![None],
        false => flags.model.iter().map(Some).collect(),
    };
    for model in models {
        step::profile(&flags, model.map(PathBuf::as_path), &limits, &spans)?;
    }
    Ok(())
}

/// The same again in a process for each number of threads.
fn each(counts: &[usize]) -> Result<()> {
    let program = std::env::current_exe().context("this program has no path")?;
    for count in counts {
        let given: Vec<String> = std::env::args().skip(1).collect();
        let is_count = |at: usize| given[at] == "--threads" || at > 0 && given[at - 1] == "--threads";
        let others = (0..given.len()).filter(|at| !is_count(*at) && !given[*at].starts_with("--threads="));
        let mut command = Command::new(&program);
        command.args(others.map(|at| &given[at])).args(["--threads", &count.to_string()]);
        let status = command.env(THREADS, count.to_string()).status()?;
        ensure!(status.success(), "the profile on {count} threads ended with {status}");
    }
    Ok(())
}
