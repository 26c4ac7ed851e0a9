//! Running totals: `27-2-8+7=` is answered with every value on the way, `25, 17, 24`.
//!
//! There is one right answer, every value needs the one before it, and the separators are free: a decoder that takes
//! the most confident tokens first leaves the values of a block for its last steps, where it must guess several at once.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::Row;
use crate::train::random::{Purpose, Stream};

/// Values are 0..=LARGEST: each is one token.
const LARGEST: usize = 99;

/// One row: a first value of two digits, then `steps` times plus or minus 1..=9, the sign turned where the value would
/// leave its range.
fn draw(steps: usize, stream: &mut Stream) -> Row {
    let mut value = stream.between(10, LARGEST);
    let mut prompt = value.to_string();
    let mut values = Vec::with_capacity(steps);
    for _ in 0..steps {
        let (change, up) = (stream.between(1, 9), stream.below(2) == 0);
        let up = if up { value + change <= LARGEST } else { value < change };
        value = if up { value + change } else { value - change };
        prompt += &format!("{}{change}", if up { '+' } else { '-' });
        values.push(value.to_string());
    }
    Row { prompt: prompt + "=", completion: values.join(", ") }
}

/// `count` different rows of `steps` operations, none of whose prompts is in `exclude`. The same seed gives the same
/// rows.
///
/// # Errors
/// There are not that many rows.
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
    bail!("found only {} different rows of the {count} asked for", rows.len())
}
