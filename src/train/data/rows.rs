//! Rows of JSONL and rows of tokens.

use std::io::{BufRead, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use super::countdown::Problem;
use crate::train::objective::Truth;
use crate::train::random::{Purpose, Stream};

/// One training example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What the model is given.
    pub prompt: String,
    /// What it should write, without end-of-text.
    pub completion: String,
}

/// A row of a Countdown test file.
#[derive(Debug, Deserialize)]
struct TestRow {
    input: String,
    output: String,
}

/// Parse every line of a JSONL file.
fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rows = Vec::new();
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let place = || format!("{} line {}", path.display(), index + 1);
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            rows.push(serde_json::from_str(&line).with_context(place)?);
        }
    }
    Ok(rows)
}

/// Read training rows.
///
/// # Errors
/// Names the file and the line that cannot be read.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    read_lines(path)
}

/// Write rows, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    crate::train::files::replace(path, |file| {
        let mut out = BufWriter::new(file);
        for row in rows {
            serde_json::to_writer(&mut out, row)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    })
}

/// Read a Countdown test file, rows like `{"input": "30,100,93", "output": "23"}`.
///
/// # Errors
/// Names the file and the row that is not three numbers and a target.
pub fn read_countdown_test(path: &Path) -> Result<Vec<Problem>> {
    let rows: Vec<TestRow> = read_lines(path)?;
    let problem = |(index, row): (usize, &TestRow)| {
        let numbers: Vec<u64> = row.input.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        match (<[u64; 3]>::try_from(numbers), row.output.trim().parse()) {
            (Ok(numbers), Ok(target)) => Ok(Problem { numbers, target }),
            _ => bail!("{} row {}: not three numbers and a target", path.display(), index + 1),
        }
    };
    rows.iter().enumerate().map(problem).collect()
}

/// Rows as tokens, all with prompts of one length.
#[derive(Debug)]
pub struct TokenRows {
    prompts: Vec<u32>,
    prompt_len: usize,
    answers: Vec<Vec<u32>>,
    eos: u32,
}

impl TokenRows {
    /// Tokenize rows; answers get an end-of-text token.
    ///
    /// # Errors
    /// There is no row, or prompts differ in their number of tokens (rows are batched without padding).
    pub fn encode(rows: &[Row], tokenizer: &Tokenizer, eos: u32) -> Result<Self> {
        let texts = |f: fn(&Row) -> &str| rows.iter().map(|row| f(row).to_owned()).collect::<Vec<String>>();
        let failed = |e: tokenizers::Error| anyhow::anyhow!("cannot tokenize the rows: {e}");
        let prompts = tokenizer.encode_batch(texts(|r| &r.prompt), true).map_err(failed)?;
        let answers = tokenizer.encode_batch(texts(|r| &r.completion), false).map_err(failed)?;
        let prompt_len = prompts.first().context("there are no rows to train on")?.get_ids().len();
        if let Some(at) = prompts.iter().position(|p| p.get_ids().len() != prompt_len) {
            let found = prompts[at].get_ids().len();
            bail!("row {} has a prompt of {found} tokens, the first row one of {prompt_len}", at + 1);
        }
        let answer = |e: &tokenizers::Encoding| e.get_ids().iter().copied().chain([eos]).collect();
        Ok(Self {
            prompts: prompts.iter().flat_map(|p| p.get_ids().to_vec()).collect(),
            prompt_len,
            answers: answers.iter().map(answer).collect(),
            eos,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Some rows on a canvas of `canvas` answer tokens, filled up with end-of-text.
    ///
    /// # Errors
    /// An answer does not fit the canvas.
    pub fn truth(&self, rows: &[usize], canvas: usize) -> Result<Truth> {
        let len = self.prompt_len + canvas;
        let mut ids = Vec::with_capacity(rows.len() * len);
        for row in rows {
            let answer = &self.answers[*row];
            if answer.len() > canvas {
                bail!("row {} has an answer of {} tokens, the canvas only {canvas}", row + 1, answer.len());
            }
            ids.extend(&self.prompts[row * self.prompt_len..(row + 1) * self.prompt_len]);
            ids.extend(answer.iter().copied().chain(std::iter::repeat_n(self.eos, canvas - answer.len())));
        }
        Ok(Truth { ids, len, prompt_len: self.prompt_len })
    }
}

/// The order in which rows are used: every row once per epoch, epochs shuffled by seed.
#[derive(Debug)]
pub struct Order {
    seed: u64,
    epoch: u64,
    rows: Vec<u32>,
}

impl Order {
    /// The order of `count` rows.
    pub fn new(seed: u64, count: usize) -> Self {
        let mut order = Self { seed, epoch: 0, rows: (0..count as u32).collect() };
        order.shuffle(0);
        order
    }

    fn shuffle(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.rows.sort_unstable();
        Stream::new(self.seed, Purpose::Order, &[epoch]).shuffle(&mut self.rows);
    }

    /// The `count` rows from `position` on, position counting rows since the run began.
    pub fn take(&mut self, position: u64, count: usize) -> Vec<usize> {
        let n = self.rows.len() as u64;
        (position..position + count as u64)
            .map(|at| {
                if at / n != self.epoch {
                    self.shuffle(at / n);
                }
                self.rows[(at % n) as usize] as usize
            })
            .collect()
    }
}
