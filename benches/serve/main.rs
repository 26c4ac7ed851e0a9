//! Speed of the server over HTTP, with equal work for all: `cargo bench --bench serve -- --help`.
//!
//! Without more it measures the bundled model at several concurrencies. `--table` compares with peers and with itself, `--scaling`
//! lets one thing grow at a time. All output is Markdown on standard output.

mod adapters;
mod compare;
mod machine;
mod overview;
mod peers;
mod scaling;
mod server;
mod table;
mod work;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use evotoken::model::{ModelConfig, ModelSource, bundled};

use peers::Peers;
use server::Server;

/// Speed of the server over HTTP, with equal work for all.
#[derive(Debug, Parser)]
struct Flags {
    /// Model folder or GGUF file (of those in --models for the table), instead of the bundled model
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of the table's models: small-f32, small-bf16, slice8b-f32, slice8b-bf16, small-q8_0.gguf, small-q4_k_m.gguf
    #[arg(long, default_value = "models/bench")]
    models: PathBuf,
    /// Rounds of a comparison
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of the server and of its peers
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    threads: Vec<usize>,
    /// Clients at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    concurrency: Vec<usize>,
    /// Folder of torch_peer.py and llama_peer.py
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// A Python with PyTorch and safetensors
    #[arg(long, value_name = "PYTHON", requires = "peers")]
    torch_python: Option<PathBuf>,
    /// A Python with llama-cpp-python
    #[arg(long, value_name = "PYTHON", requires = "peers")]
    llama_python: Option<PathBuf>,
    /// Comparisons with peers and with itself, all or those named
    #[arg(long, value_delimiter = ',', num_args = 0.., value_enum)]
    table: Option<Vec<table::Topic>>,
    /// Tokens per second as one thing grows, all or those named
    #[arg(long, value_delimiter = ',', num_args = 0.., value_enum)]
    scaling: Option<Vec<scaling::Axis>>,
    /// Where --scaling draws its plot (SVG)
    #[arg(long, value_name = "FILE", requires = "scaling")]
    plot: Option<PathBuf>,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let peers = Peers {
        scripts: flags.peers.clone(),
        torch: flags.torch_python.clone(),
        llama: flags.llama_python.clone(),
    };
    machine::describe();
    if let Some(topics) = &flags.table {
        return table::print(&flags, &peers, topics);
    }
    if let Some(axes) = &flags.scaling {
        return scaling::print(&flags, axes);
    }
    overview::print(&flags, &peers)
}

/// A running server and what its model is like.
fn start(model: Option<&PathBuf>, threads: usize, more: &[String]) -> Result<(Server, ModelConfig)> {
    let source = model.map_or(Ok(bundled::COUNTDOWN), ModelSource::open)?;
    Ok((Server::start(model.map(PathBuf::as_path), threads, more)?, ModelConfig::load(&source)?))
}
