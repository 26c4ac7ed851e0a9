//! Chains: sums of many steps modulo 23, worked left to right.
//!
//! `17+5*3-8=` is answered with every value on the way: `22, 20, 12`. There is one right answer, every value needs the
//! one before it, and the separators are free: a decoder that takes the most confident tokens first leaves the values
//! of a block for its last steps, where it must guess several at once.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::Row;
use crate::train::random::{Purpose, Stream};

/// Values are below this. It is prime, so that no operation forgets the value before it.
const MODULUS: u64 = 23;

/// One row: `steps` operations on a first number.
fn draw(steps: usize, stream: &mut Stream) -> Row {
    let mut value = stream.below(MODULUS as usize) as u64;
    let mut prompt = value.to_string();
    let mut values = Vec::with_capacity(steps);
    for _ in 0..steps {
        let kind = stream.below(5);
        let operand = if kind == 4 { stream.between(2, 9) } else { stream.between(1, 22) } as u64;
        let (sign, result) = match kind {
            0 | 1 => ('+', value + operand),
            2 | 3 => ('-', value + MODULUS - operand),
            _ => ('*', value * operand),
        };
        value = result % MODULUS;
        prompt += &format!("{sign}{operand}");
        values.push(value.to_string());
    }
    Row { prompt: prompt + "=", completion: values.join(", ") }
}

/// `count` different chains of `steps` operations, none of whose prompts is in `exclude`. The same seed gives the same
/// rows.
///
/// # Errors
/// There are not that many chains.
pub fn generate(count: usize, steps: usize, seed: u64, exclude: &HashSet<String>) -> Result<Vec<Row>> {
    let (mut rows, mut seen) = (Vec::with_capacity(count), HashSet::with_capacity(count));
    for index in 0..10 * (count as u64 + 100) {
        if rows.len() == count {
            return Ok(rows);
        }
        let row = draw(steps, &mut Stream::new(seed, Purpose::Problem, &[index]));
        if !exclude.contains(&row.prompt) && seen.insert(row.prompt.clone()) {
            rows.push(row);
        }
    }
    bail!("found only {} different chains of the {count} asked for", rows.len())
}
