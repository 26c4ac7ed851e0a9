//! Rows as tokens, of any lengths, and the batches made of them.

use std::path::Path;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use super::rows::{Line, Row, lines};
use crate::model::ModelConfig;
use crate::train::objective::Truth;
use crate::train::random::Stream;
use crate::train::settings::Canvas;

/// A training example in the tokens of one model: what `trainer data prepare` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRow {
    /// Prompt and answer.
    pub ids: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_len: usize,
}

/// A line of a file of training rows: text or tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyRow {
    prompt: Option<String>,
    completion: Option<String>,
    ids: Option<Vec<u32>>,
    prompt_len: Option<usize>,
}

/// Rows tokenized at a time: what a tokenizer says about a text is far larger than its ids.
const CHUNK: usize = 4096;

/// Most padding that a batch as long as its rows gets, in tokens (the authors' code).
const MORE_PADDING: usize = 10;

/// Rows as tokens.
#[derive(Debug)]
pub struct TokenRows {
    /// All rows, one after another.
    ids: Vec<u32>,
    rows: Vec<Span>,
    /// End-of-text, which also fills rows up.
    eos: u32,
    /// The file they were read from.
    file: Option<String>,
}

/// One row within the ids of all.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
    prompt_len: usize,
    /// Line of its file, or number of the row.
    line: usize,
}

impl TokenRows {
    /// Tokenize rows of text; answers get an end-of-text token.
    ///
    /// # Errors
    /// There is no row, or one cannot be tokenized.
    pub fn encode(rows: &[Row], tokenizer: &Tokenizer, eos: u32) -> Result<Self> {
        let mut all = Self { ids: Vec::new(), rows: Vec::new(), eos, file: None };
        let numbers: Vec<usize> = (1..=rows.len()).collect();
        for (numbers, rows) in numbers.chunks(CHUNK).zip(rows.chunks(CHUNK)) {
            all.push_texts(numbers, rows, tokenizer)?;
        }
        all.or_nothing()
    }

    /// Read a file whose rows are `{"prompt", "completion"}`, tokenized here as by [`Self::encode`], or
    /// `{"ids", "prompt_len"}`, taken as they are.
    ///
    /// # Errors
    /// Names the file and the line that is neither, or whose prompt is not shorter than the row.
    pub fn read(path: &Path, tokenizer: &Tokenizer, eos: u32) -> Result<Self> {
        let file = path.display().to_string();
        let mut all = Self { ids: Vec::new(), rows: Vec::new(), eos, file: Some(file) };
        let (mut numbers, mut texts) = (Vec::new(), Vec::new());
        for Line { number, row } in lines::<AnyRow>(path)? {
            let place = || format!("{} line {number}", path.display());
            match (row.prompt, row.completion, row.ids, row.prompt_len) {
                (Some(prompt), Some(completion), None, None) => {
                    numbers.push(number);
                    texts.push(Row { prompt, completion });
                }
                (None, None, Some(ids), Some(prompt_len)) if prompt_len < ids.len() => {
                    all.push_texts(&std::mem::take(&mut numbers), &std::mem::take(&mut texts), tokenizer)?;
                    all.push(number, ids, prompt_len);
                }
                (None, None, Some(_), Some(_)) => bail!("{}: the prompt leaves no answer", place()),
                _ => bail!("{}: a row has prompt and completion, or ids and prompt_len", place()),
            }
            if texts.len() == CHUNK {
                all.push_texts(&std::mem::take(&mut numbers), &std::mem::take(&mut texts), tokenizer)?;
            }
        }
        all.push_texts(&numbers, &texts, tokenizer)?;
        all.or_nothing()
    }

    fn or_nothing(self) -> Result<Self> {
        match &self.file {
            _ if !self.rows.is_empty() => Ok(self),
            Some(file) => bail!("{file} has no rows to train on"),
            None => bail!("there are no rows to train on"),
        }
    }

    fn push(&mut self, line: usize, ids: impl IntoIterator<Item = u32>, prompt_len: usize) {
        let start = self.ids.len();
        self.ids.extend(ids);
        self.rows.push(Span { start, len: self.ids.len() - start, prompt_len, line });
    }

    fn push_texts(&mut self, lines: &[usize], rows: &[Row], tokenizer: &Tokenizer) -> Result<()> {
        let encode = |text: fn(&Row) -> &str, special| {
            let texts = rows.iter().map(text).collect();
            tokenizer.encode_batch::<&str>(texts, special).map_err(|e| {
                let [first, last] = [lines.first(), lines.last()].map(|line| line.map_or(0, |line| *line));
                anyhow::anyhow!("cannot tokenize one of the rows {first} to {last}{}: {e}", self.of_file())
            })
        };
        let (prompts, answers) = (encode(|row| &row.prompt, true)?, encode(|row| &row.completion, false)?);
        for (line, (prompt, answer)) in lines.iter().zip(prompts.iter().zip(&answers)) {
            let ids = prompt.get_ids().iter().chain(answer.get_ids()).copied().chain([self.eos]);
            self.push(*line, ids, prompt.len());
        }
        Ok(())
    }

    fn of_file(&self) -> String {
        self.file.as_ref().map_or_else(String::new, |file| format!(" of {file}"))
    }

    /// Where a row comes from, for messages.
    fn place(&self, row: &Span) -> String {
        match &self.file {
            Some(file) => format!("{file} line {}", row.line),
            None => format!("row {}", row.line),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Check that a network can be trained on every row and every canvas holds every answer, before a run begins.
    ///
    /// # Errors
    /// Names the row that holds a token that the network does not have or the mask token, is longer than the network's
    /// canvas, or whose answer is longer than a canvas of the recipe.
    pub fn check(&self, canvases: &[Canvas], config: &ModelConfig) -> Result<()> {
        for row in &self.rows {
            let ids = &self.ids[row.start..row.start + row.len];
            if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab) {
                bail!("{} holds token {id}, the model has only {}", self.place(row), config.vocab);
            }
            if ids.contains(&config.mask_id) {
                bail!("{} holds the mask token ({})", self.place(row), config.mask_id);
            }
            for canvas in canvases {
                self.fits(row, canvas.length)?;
                let len = canvas.length.map_or(row.len + MORE_PADDING, |length| row.prompt_len + length);
                if len > config.max_positions {
                    bail!(
                        "{} needs a canvas of {len} tokens, the model has only {}",
                        self.place(row),
                        config.max_positions
                    );
                }
            }
        }
        Ok(())
    }

    fn fits(&self, row: &Span, canvas: Option<usize>) -> Result<()> {
        let answer = row.len - row.prompt_len;
        match canvas {
            Some(canvas) if answer > canvas => {
                bail!("{} has an answer of {answer} tokens, the canvas only {canvas}", self.place(row))
            }
            _ => Ok(()),
        }
    }

    /// Some rows on a canvas of `canvas` tokens behind the longest of their prompts, filled up with end-of-text.
    ///
    /// # Errors
    /// An answer does not fit the canvas.
    pub fn truth(&self, rows: &[usize], canvas: usize) -> Result<Truth> {
        rows.iter().try_for_each(|row| self.fits(&self.rows[*row], Some(canvas)))?;
        let prompt = rows.iter().map(|row| self.rows[*row].prompt_len).max().unwrap_or(0);
        Ok(self.filled(rows, prompt + canvas))
    }

    /// Some rows, filled up with end-of-text to the length of the longest; with probability 1/2 all get 1 to 10 tokens
    /// of it more. The fill is ground truth like any other token.
    pub fn padded(&self, rows: &[usize], stream: &mut Stream) -> Truth {
        let longest = rows.iter().map(|row| self.rows[*row].len).max().unwrap_or(0);
        let more = if stream.below(2) == 1 { stream.between(1, MORE_PADDING) } else { 0 };
        self.filled(rows, longest + more)
    }

    fn filled(&self, rows: &[usize], len: usize) -> Truth {
        let mut truth = Truth { ids: Vec::with_capacity(rows.len() * len), len, prompt_len: Vec::new() };
        for row in rows.iter().map(|row| self.rows[*row]) {
            truth.ids.extend(&self.ids[row.start..row.start + row.len]);
            truth.ids.extend(std::iter::repeat_n(self.eos, len - row.len));
            truth.prompt_len.push(row.prompt_len);
        }
        truth
    }
}
