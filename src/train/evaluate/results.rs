//! What a measurement says: counts, intervals, JSON, and a Markdown table.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Marked;
use super::grid::Setting;
use crate::engine::Progress;
use crate::train::files;
use crate::train::suites::Suite;
use crate::train::suites::wording::Style;

/// What was measured: everything but the way of decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// What the rows of a table are called.
    pub label: String,
    /// Where the model's files are.
    pub model: String,
    /// Folder of the adapter beside it.
    pub adapter: Option<String>,
    /// The suite.
    pub suite: Suite,
    /// File of the questions.
    pub data: String,
    /// How the questions were put.
    pub prompt: Style,
    /// What every answer was given to begin with.
    pub prefill: String,
}

/// Counts over all questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Questions.
    pub rows: usize,
    /// Answers that are right.
    pub solved: usize,
    /// Their share, 0..=1.
    pub accuracy: f64,
    /// 95 % interval of the accuracy ([`wilson`]).
    pub interval: [f64; 2],
    /// Mean share of right values, for suites whose answers have several.
    pub values: Option<f64>,
    /// Mean forward passes of an answer.
    pub nfe: f64,
    /// Visible tokens per forward pass, over all answers.
    pub tokens_per_forward: f64,
    /// Mean visible tokens of an answer.
    pub tokens: f64,
    /// Mean number of soft positions of an answer whose token changed.
    pub revisions: f64,
    /// Visible tokens per second, all answers together.
    pub tokens_per_second: f64,
    /// From the first question to the last answer.
    pub seconds: f64,
    /// One character a question, in order: `1` for solved, `0` for not.
    pub solved_rows: String,
}

/// One line of a results file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured.
    #[serde(flatten)]
    pub subject: Subject,
    /// How it decoded.
    pub setting: Setting,
    /// What came out.
    #[serde(flatten)]
    pub measured: Measured,
}

impl Record {
    /// The record as a row of a [`table`].
    pub fn row(&self) -> (&str, &Setting, &Measured) {
        (&self.subject.label, &self.setting, &self.measured)
    }
}

impl Measured {
    /// Count the answers to at least one question.
    pub fn of(answers: &[Marked], seconds: f64) -> Self {
        let rows = answers.len() as f64;
        let mean = |f: fn(&Progress) -> usize| {
            answers.iter().map(|a| f(&a.answer.progress)).sum::<usize>() as f64 / rows
        };
        let solved = answers.iter().filter(|a| a.mark.solved).count();
        let shares: Option<Vec<f64>> = answers.iter().map(|a| a.mark.share).collect();
        let (nfe, tokens) = (mean(|p| p.nfe), mean(|p| p.tokens));
        Self {
            rows: answers.len(),
            solved,
            accuracy: solved as f64 / rows,
            interval: wilson(solved, answers.len()),
            values: shares.map(|shares| shares.iter().sum::<f64>() / rows),
            nfe,
            tokens_per_forward: tokens / nfe,
            tokens,
            revisions: mean(|p| p.revisions),
            tokens_per_second: tokens * rows / seconds,
            seconds,
            solved_rows: answers.iter().map(|a| if a.mark.solved { '1' } else { '0' }).collect(),
        }
    }
}

/// Wilson's 95 % interval of a share, `solved` of `rows` (at least 1).
pub fn wilson(solved: usize, rows: usize) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (rows as f64, solved as f64 / rows as f64);
    let scale = 1.0 / (1.0 + Z * Z / n);
    let centre = scale * (p + Z * Z / (2.0 * n));
    let half = scale * Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// Measurements as a Markdown table, one row each, called by their labels.
pub fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a Setting, &'a Measured)> + Clone) -> String {
    let with_values = rows.clone().any(|(_, _, measured)| measured.values.is_some());
    let (head, line) = if with_values { (" values % |", "---|") } else { ("", "") };
    let mut text = format!(
        "| model | setting | solved | % | 95 % interval |{head} NFE | tokens per forward | revisions | tokens/s |\n\
         |---|---|---|---|---|{line}---|---|---|---|\n"
    );
    for (label, setting, m) in rows {
        let [low, high] = m.interval.map(|bound| 100.0 * bound);
        let values = match (with_values, m.values) {
            (true, Some(share)) => format!(" {:.1} |", 100.0 * share),
            (true, None) => " |".to_owned(),
            (false, _) => String::new(),
        };
        text += &format!(
            "| {label} | {} | {} of {} | {:.1} | {low:.1} to {high:.1} |{values} {:.2} | {:.2} | {:.2} | {:.0} |\n",
            setting.describe(),
            m.solved,
            m.rows,
            100.0 * m.accuracy,
            m.nfe,
            m.tokens_per_forward,
            m.revisions,
            m.tokens_per_second,
        );
    }
    text
}

/// Read a results file.
///
/// # Errors
/// It is missing or no results file.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let place = || format!("results {}", path.display());
    let text = std::fs::read(path).with_context(place)?;
    serde_json::from_slice(&text).with_context(place)
}

/// Write a results file, whole or not at all: a JSON array with one record a line.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, records: &[Record]) -> Result<()> {
    let lines = records.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    files::replace(path, |file| Ok(file.write_all(text.as_bytes())?))
}
