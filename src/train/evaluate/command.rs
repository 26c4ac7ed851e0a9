//! `trainer evaluate`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::grid::{Grid, Setting};
use super::results::{self, Measured, Record, Subject};
use super::served::Served;
use super::{Asked, IN_FLIGHT, Marked};
use crate::config;
use crate::hub;
use crate::model::ModelSource;
use crate::text::chat_template::ChatTemplate;
use crate::train::files;
use crate::train::suites::wording::{Style, Wording};
use crate::train::suites::{Question, Suite};

/// Time between pictures of the progress bar.
const REFRESH: Duration = Duration::from_millis(500);

/// What to measure, and where to write it.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Model folder or GGUF file, or a model's name on a hub; without it, the model in the server's program
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// PEFT LoRA folder, applied beside the model's weights
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What is asked
    #[arg(long)]
    suite: Suite,
    /// File of the questions: JSON lines (SVAMP: an array)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Ask only so many questions, the first ones
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    grid: Grid,
    /// How questions are put; without it, plain for countdown and sorting, instruct for the others
    #[arg(long)]
    prompt: Option<Style>,
    /// What every answer begins with, put behind the prompt; without it, `<reasoning>` if the prompt is instruct
    #[arg(long)]
    prefill: Option<String>,
    /// What the rows of the table are called; without it, the model's name
    #[arg(long)]
    name: Option<String>,
    /// How many answers run at once; they do not depend on it
    #[arg(long, default_value_t = IN_FLIGHT)]
    in_flight: usize,
    /// Write the results here, one record per way of decoding
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the records that are in the --json file already
    #[arg(long, requires = "json")]
    append: bool,
    /// Write the table here too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write every answer here (JSON lines)
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
}

impl EvaluateArgs {
    /// Measure, print the table, and write the files. Results are written after every way of decoding, so that an
    /// interrupted run keeps what it has.
    ///
    /// # Errors
    /// Names the file, line or setting that cannot be used.
    pub fn run(&self) -> Result<()> {
        ensure!(self.in_flight > 0, "--in-flight must be at least 1");
        let mut records = match &self.json {
            Some(path) if self.append && path.exists() => results::read(path)?,
            _ => Vec::new(),
        };
        let kept = records.len();
        let mut questions = self.suite.read(&self.data)?;
        questions.truncate(self.limit.unwrap_or(usize::MAX));
        ensure!(!questions.is_empty(), "--limit must be at least 1");
        let source = hub::or_bundled(self.model.as_deref(), &config::hub())?;
        let adapter = self.adapter.as_ref().map(ModelSource::folder);
        let asked = Asked { questions, wording: self.wording(&source)?, prefill: self.prefill() };
        let served = Served::load(&source, adapter.as_ref(), self.in_flight)?;
        let settings = self.grid.settings(served.defaults(), served.config(), self.suite.usual_length())?;
        let mut answers = String::new();
        for (number, setting) in settings.iter().enumerate() {
            let bar = bar(asked.questions.len(), &format!("{} of {}", number + 1, settings.len()));
            let (marked, seconds) = asked.answers(&served, setting, &|| bar.inc(1))?;
            bar.finish_and_clear();
            for pair in std::iter::zip(&asked.questions, &marked) {
                answers += &answer_line(setting, pair)?;
            }
            let measured = Measured::of(&marked, seconds);
            records.push(Record {
                subject: self.subject(&source, adapter.as_ref()),
                setting: setting.clone(),
                measured,
            });
            if let Some(path) = &self.json {
                results::write(path, &records)?;
            }
        }
        let table = results::table(records[kept..].iter().map(Record::row));
        print!("{table}");
        write(self.markdown.as_deref(), &table)?;
        write(self.answers.as_deref(), &answers)
    }

    fn style(&self) -> Style {
        self.prompt.unwrap_or(self.suite.usual_style())
    }

    fn prefill(&self) -> String {
        self.prefill.clone().unwrap_or_else(|| self.style().usual_prefill().to_owned())
    }

    fn wording(&self, source: &ModelSource) -> Result<Wording> {
        let instruction = match self.style() {
            Style::Plain => return Ok(Wording::Plain),
            Style::Chat => String::new(),
            Style::Instruct => self.suite.instruction(),
        };
        Ok(Wording::Message { instruction, template: Box::new(ChatTemplate::load(source)?) })
    }

    fn subject(&self, source: &ModelSource, adapter: Option<&ModelSource>) -> Subject {
        let folder = |path: &PathBuf| path.display().to_string();
        Subject {
            label: self.name.clone().unwrap_or_else(|| source.name()),
            model: source.place(),
            adapter: adapter.map(ModelSource::place),
            suite: self.suite,
            data: folder(&self.data),
            prompt: self.style(),
            prefill: self.prefill(),
        }
    }
}

fn write(path: Option<&Path>, text: &str) -> Result<()> {
    path.map_or(Ok(()), |path| files::replace(path, |file| Ok(file.write_all(text.as_bytes())?)))
}

fn answer_line(setting: &Setting, (question, marked): (&Question, &Marked)) -> Result<String> {
    let Marked { answer, mark } = marked;
    let line = json!({
        "place": question.place,
        "setting": setting.describe(),
        "question": question.text,
        "answer": answer.text,
        "solved": mark.solved,
        "nfe": answer.progress.nfe,
    });
    Ok(serde_json::to_string(&line).context("an answer cannot be written as JSON")? + "\n")
}

fn bar(questions: usize, of: &str) -> ProgressBar {
    let bar = ProgressBar::new(questions as u64).with_message(format!("setting {of}"));
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left");
    bar.set_style(style.expect("the template is constant and valid"));
    bar.enable_steady_tick(REFRESH);
    bar
}
