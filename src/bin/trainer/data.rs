//! `trainer data`: writes training rows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use evotoken::model::ModelSource;
use evotoken::text::Tokenizer;
use evotoken::text::chat_template::ChatTemplate;
use evotoken::train::data::prepare::{Selection, prepare};
use evotoken::train::data::{countdown, rows, sorting, sources};
use evotoken::train::suites::{Question, Suite, Truth};

/// What to write.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Countdown, one solution per problem.
    Countdown {
        /// Number of rows.
        #[arg(long)]
        rows: usize,
        /// Numbers per problem: 2 to 5.
        #[arg(long, default_value_t = 3)]
        numbers: usize,
        /// Seed; the same seed gives the same file.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Problems (a test file or rows) that must not occur.
        #[arg(long)]
        exclude: Option<PathBuf>,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Lists of numbers 0..99 and the same numbers in order.
    Sorting {
        /// Number of rows.
        #[arg(long)]
        rows: usize,
        /// Numbers per row.
        #[arg(long, default_value_t = 20)]
        length: usize,
        /// Seed; the same seed gives the same file.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Rows (JSONL) that must not occur.
        #[arg(long)]
        exclude: Option<PathBuf>,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Questions and answers through a model's chat template and tokenizer.
    Prepare(PrepareArgs),
}

/// Defaults are the paper's.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// What the rows of the input are.
    #[arg(long, value_enum)]
    kind: sources::Kind,
    /// Folder of the model whose tokenizer and chat template are used.
    #[arg(long)]
    model: PathBuf,
    /// File to read (JSONL).
    #[arg(long = "in")]
    input: PathBuf,
    /// File to write.
    #[arg(long)]
    out: PathBuf,
    /// File for the rows held out; without it none are.
    #[arg(long)]
    held_out: Option<PathBuf>,
    /// Longer rows are left out.
    #[arg(long, default_value_t = 1024)]
    max_tokens: usize,
    /// Rows with fewer tokens behind the prompt are left out.
    #[arg(long, default_value_t = 32)]
    min_answer_tokens: usize,
    /// Most rows, held-out ones included.
    #[arg(long, default_value_t = 2000)]
    keep: usize,
    /// Share of the kept rows that is held out: at least 0, below 1.
    #[arg(long, default_value_t = 0.01)]
    held_out_share: f64,
    /// Seed of the shuffle; the same seed gives the same files.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// Write it.
pub fn write(data: Data) -> Result<()> {
    match data {
        Data::Countdown { rows: count, numbers, seed, exclude, out } => {
            let excluded = exclude.as_deref().map(countdown_keys).transpose()?.unwrap_or_default();
            write_rows(&out, &countdown::generate(count, numbers, seed, &excluded)?)
        }
        Data::Sorting { rows: count, length, seed, exclude, out } => {
            let excluded = exclude.as_deref().map(rows::read).transpose()?.unwrap_or_default();
            let excluded = excluded.into_iter().map(|row| row.prompt).collect();
            write_rows(&out, &sorting::generate(count, length, seed, &excluded)?)
        }
        Data::Prepare(args) => write_prepared(&args),
    }
}

/// What tells the problems of a file from others.
fn countdown_keys(file: &Path) -> Result<HashSet<Vec<u64>>> {
    let questions = Suite::Countdown.read(file)?;
    let key = |question: Question| match question.truth {
        Truth::Countdown { numbers, target } => Some(countdown::Problem { numbers, target }.key()),
        _ => None,
    };
    Ok(questions.into_iter().filter_map(key).collect())
}

fn write_rows<T: serde::Serialize>(out: &Path, made: &[T]) -> Result<()> {
    rows::write(out, made)?;
    eprintln!("{} rows written to {}", made.len(), out.display());
    Ok(())
}

fn write_prepared(args: &PrepareArgs) -> Result<()> {
    if !(0.0..1.0).contains(&args.held_out_share) || args.min_answer_tokens == 0 || args.keep == 0 {
        bail!("--held-out-share must be at least 0 and below 1, --min-answer-tokens and --keep at least 1");
    }
    let model = ModelSource::folder(&args.model);
    let (template, tokenizer) = (ChatTemplate::load(&model)?, Tokenizer::load(&model)?);
    let (samples, left_out) = sources::read(&args.input, args.kind)?;
    let selection = Selection {
        max_tokens: args.max_tokens,
        min_answer_tokens: args.min_answer_tokens,
        keep: args.keep,
        held_out_share: if args.held_out.is_some() { args.held_out_share } else { 0.0 },
        seed: args.seed,
    };
    let made = prepare((&samples, &args.input), &template, &tokenizer, &selection)?;
    eprintln!(
        "left out: {left_out} rows by the rules of the data set, {} over {} tokens, {} with fewer than {} behind the \
         prompt, {} more than asked for",
        made.too_long, args.max_tokens, made.too_short, args.min_answer_tokens, made.surplus
    );
    write_rows(&args.out, &made.rows)?;
    args.held_out.as_deref().map_or(Ok(()), |out| write_rows(out, &made.held_out))
}
