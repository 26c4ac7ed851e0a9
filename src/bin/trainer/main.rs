//! `trainer`: makes training data, pre-trains and fine-tunes masked diffusion language models.

mod data;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use data::Data;
use evotoken::config;
use evotoken::model::ModelSource;
use evotoken::telemetry::{self, LogSettings};
use evotoken::text::Tokenizer;
use evotoken::train::card::Card;
use evotoken::train::checkpoint::Progress;
use evotoken::train::data::TokenRows;
use evotoken::train::evaluate::command::EvaluateArgs;
use evotoken::train::evaluate::served::Served;
use evotoken::train::evaluate::{Asked, IN_FLIGHT, development, grid};
use evotoken::train::network::{self, Network, Weights};
use evotoken::train::report::ReportArgs;
use evotoken::train::run::Run;
use evotoken::train::settings::Settings;
use evotoken::train::suites::Suite;
use evotoken::train::{export, merge, tokenizer};
use serde_json::Value;

/// Freed buffers of activations are kept for the next update: the system's allocator would return them to the kernel,
/// and every update would fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Write a model with an adapter merged into its weights.
    Merge {
        /// Folder of the model that the adapter was trained on.
        #[arg(long)]
        model: PathBuf,
        /// Adapter folder (PEFT's layout).
        #[arg(long)]
        adapter: PathBuf,
        /// Model folder to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Measure what a model solves, through the serving engine.
    Evaluate(Box<EvaluateArgs>),
    /// Put results of `evaluate` side by side, with paired differences and a plot.
    Report(ReportArgs),
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
    /// Folder to write at the end: a model, or an adapter if the recipe has a `lora` table.
    #[arg(long)]
    out: PathBuf,
    /// Seed instead of the recipe's.
    #[arg(long)]
    seed: Option<u64>,
    /// Number of updates instead of the recipe's.
    #[arg(long)]
    updates: Option<usize>,
    /// Test file to measure the written model on, for its card.
    #[arg(long)]
    test: Option<PathBuf>,
    /// What the held-out rows and the test file ask.
    #[arg(long, default_value = "countdown")]
    suite: Suite,
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
    // What the engine has to say of a model that fails.
    telemetry::init(&LogSettings { level: "warn".to_owned(), ..LogSettings::default() })?;
    match Cli::parse().command {
        Command::Data { data } => data::write(data),
        Command::Pretrain(args) => pretrain(&args),
        Command::Finetune { model, train } => finetune(&model, &train),
        Command::Merge { model, adapter, out } => {
            merge::merge(&model, &adapter, &out)?;
            eprintln!("model written to {}", out.display());
            Ok(())
        }
        Command::Evaluate(args) => args.run(),
        Command::Report(args) => args.run(),
    }
}

impl TrainArgs {
    /// The recipe with what the command line changes of it.
    fn settings(&self) -> Result<Settings> {
        let mut settings = Settings::read(&self.config)?;
        settings.seed = self.seed.unwrap_or(settings.seed);
        settings.updates = self.updates.unwrap_or(settings.updates);
        settings.check()?;
        Ok(settings)
    }
}

fn pretrain(args: &TrainArgs) -> Result<()> {
    let settings = args.settings()?;
    if settings.lora.is_some() {
        bail!("the recipe has a [lora] table: adapters are for `trainer finetune`");
    }
    let model =
        settings.model.as_ref().context("training from scratch needs a [model] table in the recipe")?;
    let config = export::config_json(model);
    let weights = export::network(&config)?.init(settings.seed)?;
    train(args, settings, None, (&config, &weights))
}

fn finetune(model: &Path, args: &TrainArgs) -> Result<()> {
    let settings = args.settings()?;
    if settings.model.is_some() {
        bail!("the recipe has a [model] table, but the model is given by --model");
    }
    let (config, weights) = export::read(model)?;
    train(args, settings, Some(model), (&config, &weights))
}

fn name(folder: &Path) -> String {
    folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Train from the weights of the folder `base`, or from random ones.
fn train(args: &TrainArgs, settings: Settings, base: Option<&Path>, model: (&Value, &Weights)) -> Result<()> {
    let (config, weights) = model;
    // Now, not after hours of training.
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot write to {}", args.out.display()))?;
    let network = export::network(config)?;
    let tokenizer = base.map_or_else(tokenizer::build, tokenizer::read)?;
    let eos = network.config().eos_ids.first();
    let eos = *eos.context("config.json names no eos_token_id, which answers are to end with")?;
    let rows = TokenRows::read(&args.data, &tokenizer, eos)?;
    let row_count = rows.len();
    let [held_out, test] = [&args.held_out, &args.test].map(|file| questions(args.suite, file.as_deref()));
    let (held_out, test) = (held_out?, test?);
    eprintln!("{row_count} training rows, {} rows held out", held_out.questions.len());
    let text = Arc::new(match base {
        Some(base) => Tokenizer::load(&ModelSource::folder(base))?,
        None => Tokenizer::from_json(&serde_json::to_vec(&tokenizer::tokenizer_json())?)?,
    });
    let score = |network: &Network, weights: &Weights| match held_out.questions.as_slice() {
        [] => Ok(String::new()),
        _ => development::line(network.config(), weights, text.clone(), &held_out, &settings),
    };
    let mut run = Run::new(settings.clone(), network, weights, rows, &args.run)?;
    if args.resume {
        run.resume()?;
        eprintln!("resumed after update {}", run.progress().updates);
    }
    run.train(args.stop_at.unwrap_or(settings.updates), &score)?;
    let trained = run.trained();
    match (&settings.lora, base) {
        (Some(lora), _) => {
            let base = base.map(name).unwrap_or_default();
            export::write_adapter(&args.out, &base, &trained, lora, &settings.generation)?;
        }
        (None, Some(base)) => {
            export::write_tuned(&args.out, base, config, &trained, &settings.generation)?;
        }
        (None, None) => export::write(&args.out, config, &trained, &settings.generation)?,
    }
    let count = network::parameters(&trained);
    write_card(args, &settings, (base, row_count, count, run.progress()), &test)?;
    eprintln!("written to {}", args.out.display());
    Ok(())
}

fn questions(suite: Suite, file: Option<&Path>) -> Result<Asked> {
    let questions = file.map(|file| suite.read(file)).transpose()?.unwrap_or_default();
    Ok(Asked::plain(questions))
}

/// Measure the model or adapter as it was written and put the figures beside it.
fn write_card(
    args: &TrainArgs,
    settings: &Settings,
    (base, rows, parameters, progress): (Option<&Path>, usize, usize, &Progress),
    test: &Asked,
) -> Result<()> {
    let measured = match test.questions.as_slice() {
        [] => Vec::new(),
        _ => {
            let (model, adapter) = match (&settings.lora, base) {
                (Some(_), Some(base)) => (base, Some(ModelSource::folder(&args.out))),
                _ => (args.out.as_path(), None),
            };
            let served = Served::load(&ModelSource::folder(model), adapter.as_ref(), IN_FLIGHT)?;
            development::measure(&served, test, development::settings(settings))?
        }
    };
    let base = base.map(name);
    let card = Card {
        name: &format!("{}-{}", grid::name(&args.suite), name(&args.out)),
        base: base.as_deref(),
        adapter: settings.lora.is_some(),
        seed: settings.seed,
        recipe: &std::fs::read_to_string(&args.config)?,
        progress,
        parameters,
        rows,
        defaults: &settings.generation.diffusion,
        suite: args.suite,
        measured: &measured,
    };
    export::write_text(&args.out.join("README.md"), &card.text()?)
}
