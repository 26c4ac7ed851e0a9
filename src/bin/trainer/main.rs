//! `trainer`: makes training data, pre-trains and fine-tunes masked diffusion language models.

mod data;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use data::Data;
use evotoken::config;
use evotoken::decode::options::Method;
use evotoken::train::card::{self, Card};
use evotoken::train::checkpoint::Progress;
use evotoken::train::data::countdown::Problem;
use evotoken::train::data::{TokenRows, rows};
use evotoken::train::evaluate::{self, Decoding};
use evotoken::train::network::{self, Network, Weights};
use evotoken::train::run::Run;
use evotoken::train::settings::{Objective, Settings};
use evotoken::train::{export, tokenizer};
use serde_json::Value;
use tokenizers::Tokenizer;

/// Freed buffers of activations are kept for the next update: the system's allocator would return them to the kernel,
/// and every update would fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Mask weight of development scores if the recipe names none: the best one seen.
const DEVELOPMENT_ALPHA: f64 = 0.9;

/// Train masked diffusion language models.
#[derive(Debug, Parser)]
#[command(name = "trainer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write training data.
    Data {
        #[command(subcommand)]
        data: Data,
    },
    /// Train a model from scratch.
    Pretrain(TrainArgs),
    /// Go on training a model.
    Finetune {
        /// Folder of the model to start from.
        #[arg(long)]
        model: PathBuf,
        #[command(flatten)]
        train: TrainArgs,
    },
    /// Score a model folder on Countdown problems with the training forward pass.
    Score {
        /// Model folder.
        #[arg(long)]
        model: PathBuf,
        /// Countdown test file.
        #[arg(long)]
        test: PathBuf,
        /// Mask weights to try with EvoToken.
        #[arg(long, value_delimiter = ',', default_value = "0.9")]
        alpha: Vec<f64>,
    },
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// Recipe (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Training rows (JSONL): prompt and completion, or the tokens that `trainer data prepare` writes.
    #[arg(long)]
    data: PathBuf,
    /// Rows for the development score (JSONL), none of them among the training rows.
    #[arg(long)]
    held_out: Option<PathBuf>,
    /// Folder for checkpoint and log.
    #[arg(long)]
    run: PathBuf,
    /// Model folder to write at the end.
    #[arg(long)]
    out: PathBuf,
    /// Countdown test file to score the written model on, for its card.
    #[arg(long)]
    test: Option<PathBuf>,
    /// Go on from the checkpoint in the run folder.
    #[arg(long)]
    resume: bool,
    /// Stop after this many updates (with a checkpoint to resume from) instead of those of the recipe.
    #[arg(long)]
    stop_at: Option<usize>,
}

fn main() -> Result<()> {
    // SAFETY: no other thread has been started yet.
    unsafe { config::keep_candle_on_its_thread() };
    match Cli::parse().command {
        Command::Data { data } => data::write(data),
        Command::Pretrain(args) => pretrain(&args),
        Command::Finetune { model, train } => finetune(&model, &train),
        Command::Score { model, test, alpha } => score(&model, &test, &alpha),
    }
}

fn pretrain(args: &TrainArgs) -> Result<()> {
    let settings = Settings::read(&args.config)?;
    let model =
        settings.model.as_ref().context("training from scratch needs a [model] table in the recipe")?;
    let config = export::config_json(model);
    let weights = export::network(&config)?.init(settings.seed)?;
    train(args, settings, "from scratch", (&config, &weights))
}

fn finetune(model: &Path, args: &TrainArgs) -> Result<()> {
    let settings = Settings::read(&args.config)?;
    if settings.model.is_some() {
        bail!("the recipe has a [model] table, but the model is given by --model");
    }
    let (config, weights) = export::read(model)?;
    let origin = format!("from `{}`", name(model));
    train(args, settings, &origin, (&config, &weights))
}

fn name(folder: &Path) -> String {
    folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn train(args: &TrainArgs, settings: Settings, origin: &str, model: (&Value, &Weights)) -> Result<()> {
    let (config, weights) = model;
    // Now, not after hours of training.
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot write to {}", args.out.display()))?;
    let (network, tokenizer) = (export::network(config)?, tokenizer::build()?);
    let rows = TokenRows::read(&args.data, &tokenizer, tokenizer::EOS)?;
    let row_count = rows.len();
    let held_out = args.held_out.as_deref().map(rows::read).transpose()?.unwrap_or_default();
    let held_out = held_out.iter().map(Problem::from_row).collect::<Result<Vec<_>>>()?;
    eprintln!("{row_count} training rows, {} rows held out", held_out.len());
    let score = |network: &Network, weights: &Weights| match held_out.as_slice() {
        [] => Ok(String::new()),
        problems => development_score(network, weights, &tokenizer, problems, &settings),
    };
    let mut run = Run::new(settings.clone(), network, weights, rows, &args.run)?;
    if args.resume {
        run.resume()?;
        eprintln!("resumed after update {}", run.progress().updates);
    }
    run.train(args.stop_at.unwrap_or(settings.updates), &score)?;
    export::write(&args.out, config, &run.weights(), &settings.generation)?;
    write_card(args, &settings, origin, (run.progress(), row_count))?;
    eprintln!("model written to {}", args.out.display());
    Ok(())
}

/// One line of the log: held-out problems solved at full, half and a quarter of the steps, on 8 answer tokens.
fn development_score(
    network: &Network,
    weights: &Weights,
    tokenizer: &Tokenizer,
    problems: &[Problem],
    settings: &Settings,
) -> Result<String> {
    let methods: &[Method] = match settings.objective {
        Objective::Masked(_) => &[Method::Mask],
        Objective::Cts(_) => &[Method::Mask, Method::Evotoken],
    };
    let alpha = settings.generation.diffusion.alpha.unwrap_or(DEVELOPMENT_ALPHA);
    let mut line = String::new();
    for (method, steps) in methods.iter().flat_map(|m| [4, 2, 1].map(|steps| (*m, steps))) {
        let how = Decoding { method, alpha, k_soft: 3, canvas: 8, block: 4, steps };
        let share = evaluate::accuracy(network, weights, tokenizer, problems, how)?;
        line += &format!("{method:?} NFE {} {:.1} %  ", 2 * steps, 100.0 * share);
    }
    Ok(line)
}

/// Score the model as it was written and put the figures beside it.
fn write_card(args: &TrainArgs, settings: &Settings, origin: &str, run: (&Progress, usize)) -> Result<()> {
    let (config, weights) = export::read(&args.out)?;
    let (network, tokenizer) = (export::network(&config)?, tokenizer::build()?);
    let problems = args.test.as_deref().map(rows::read_countdown_test).transpose()?.unwrap_or_default();
    let alpha = settings.generation.diffusion.alpha.unwrap_or(DEVELOPMENT_ALPHA);
    let scores = match problems.as_slice() {
        [] => Vec::new(),
        problems => card::scores(&network, &weights, &tokenizer, problems, &[alpha])?,
    };
    let card = Card {
        name: &format!("countdown-{}", name(&args.out)),
        origin,
        recipe: &std::fs::read_to_string(&args.config)?,
        progress: run.0,
        parameters: network::parameters(&weights),
        rows: run.1,
        defaults: &settings.generation.diffusion,
        scores: (problems.len(), &scores),
    };
    export::write_text(&args.out.join("README.md"), &card.text()?)
}

fn score(model: &Path, test: &Path, alphas: &[f64]) -> Result<()> {
    let (config, weights) = export::read(model)?;
    let (network, tokenizer) = (export::network(&config)?, tokenizer::build()?);
    let problems = rows::read_countdown_test(test)?;
    let scores = card::scores(&network, &weights, &tokenizer, &problems, alphas)?;
    print!("{}", card::table(&scores));
    Ok(())
}
