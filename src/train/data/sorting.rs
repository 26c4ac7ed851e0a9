//! Sorting: `79, 32, 5=` is answered with the same numbers in order, `5, 32, 79`.
//!
//! There is one right answer and it spans several blocks. A number is easy to find behind the one before it and hard
//! to find by its place alone, and the separators are free: a decoder that takes the most confident tokens first
//! leaves the numbers of a block for its last steps, where it must guess several at once.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::Row;
use crate::train::random::{Purpose, Stream};

/// Numbers are 0..=LARGEST: each is one token.
const LARGEST: usize = 99;

fn joined(numbers: &[usize]) -> String {
    let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
    numbers.join(", ")
}

/// `count` different rows of `length` numbers, repeats among them allowed, none of whose prompts is in `exclude`. The
/// same seed gives the same rows.
///
/// # Errors
/// There are not that many rows.
pub fn generate(count: usize, length: usize, seed: u64, exclude: &HashSet<String>) -> Result<Vec<Row>> {
    let (mut rows, mut seen) = (Vec::with_capacity(count), HashSet::with_capacity(count));
    for index in 0..10 * (count as u64 + 100) {
        if rows.len() == count {
            return Ok(rows);
        }
        let mut stream = Stream::new(seed, Purpose::Problem, &[index]);
        let mut numbers: Vec<_> = (0..length).map(|_| stream.between(0, LARGEST)).collect();
        let prompt = joined(&numbers) + "=";
        if !exclude.contains(&prompt) && seen.insert(prompt.clone()) {
            numbers.sort_unstable();
            rows.push(Row { prompt, completion: joined(&numbers) });
        }
    }
    bail!("found only {} different rows of the {count} asked for", rows.len())
}
