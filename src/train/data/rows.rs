//! Rows of JSONL, and the order in which a run uses rows.

use std::io::{BufRead, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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

/// A line of JSONL that is not empty.
pub(super) struct Line<T> {
    /// From 1 on.
    pub number: usize,
    pub row: T,
}

/// Parse every line of a JSONL file.
pub(super) fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<Line<T>>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rows = Vec::new();
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let place = || format!("{} line {}", path.display(), index + 1);
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            rows.push(Line { number: index + 1, row: serde_json::from_str(&line).with_context(place)? });
        }
    }
    Ok(rows)
}

/// Read training rows.
///
/// # Errors
/// Names the file and the line that cannot be read.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    Ok(lines(path)?.into_iter().map(|line| line.row).collect())
}

/// Write rows, whole or not at all.
///
/// # Errors
/// The file cannot be written.
pub fn write<T: Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    crate::train::files::replace(path, |file| {
        let mut out = BufWriter::new(file);
        for row in rows {
            serde_json::to_writer(&mut out, row)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    })
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
