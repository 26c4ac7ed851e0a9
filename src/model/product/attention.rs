//! Soft-max attention on the CPU, without a mask: every query sees the first positions of its sequence.
//!
//! Two products with a soft-max between them, all three by columns of queries: the weights of the kernels are up to 32
//! queries, their tiles are keys and then values, and what is between them is `[positions][queries]`, so that the soft-max
//! runs along positions in lanes of queries. Each sum is one chain in the order of its terms, whichever queries share it.

mod memory;

use std::ops::Range;

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::columns::Columns;
use super::kernel::Kernel;
use super::{CHUNK, PANEL, PANELS, WORTH_SHARING};
use crate::simd;
use memory::Sizes;
pub use memory::{KeyValues, write};

/// Queries that are worked on together.
const QUERIES: usize = PANEL * PANELS;

/// Rows of queries of one sequence, and what they see.
pub struct Seen<'a> {
    /// The sequence's keys and values.
    pub memory: &'a KeyValues,
    /// So many rows of queries.
    pub rows: usize,
    /// They see the positions `[0, visible)`.
    pub visible: usize,
}

/// Up to 32 queries that share a head of keys and values.
struct Task<'a> {
    seen: &'a Seen<'a>,
    /// The head of keys and values.
    group: usize,
    /// The first of the sequence's rows, among all.
    first_row: usize,
    /// Of the sequence's queries of this group, `[query heads of the group][rows]`, those that are meant.
    queries: Range<usize>,
}

/// Attention of all sequences: q `[rows, query heads, width]`, the rows in the order of `sequences` → the same shape. Query
/// head i reads key/value head i / (query heads / heads).
///
/// # Errors
/// The sizes do not fit.
pub fn attend(q: &[f32], query_heads: usize, sequences: &[Seen]) -> Result<Vec<f32>> {
    if sequences.is_empty() {
        return Ok(Vec::new());
    }
    let mut tasks = Vec::new();
    let mut work = 0;
    let mut row = 0;
    for seen in sequences {
        let Sizes { heads, canvas, width, .. } = seen.memory.sizes;
        if !query_heads.is_multiple_of(heads) || seen.visible > canvas || seen.visible == 0 {
            bail!("{query_heads} heads of queries on {heads} that see {} of {canvas}", seen.visible);
        }
        let all = query_heads / heads * seen.rows;
        for group in 0..heads {
            let queries = (0..all).step_by(QUERIES).map(|first| first..all.min(first + QUERIES));
            tasks.extend(queries.map(|queries| Task { seen, group, first_row: row, queries }));
        }
        row += seen.rows;
        work += 2 * query_heads * seen.rows * seen.visible * width;
    }
    let width = sequences.first().map_or(0, |seen| seen.memory.sizes.width);
    if q.len() != row * query_heads * width || sequences.iter().any(|seen| seen.memory.sizes.width != width) {
        bail!("{} values of queries for {row} rows of {query_heads} heads", q.len());
    }
    let kernel = Kernel::of_this_processor();
    let q = Queries { values: q, heads: query_heads, width };
    let mut mixed = vec![0.0; q.values.len()];
    let mut places: Vec<_> = mixed.chunks_exact_mut(width).map(Some).collect();
    let places_of = |task: &Task| -> Vec<&mut [f32]> {
        let place = |query| places[q.place(task, query)].take().expect("a query is of one task");
        task.queries.clone().map(place).collect()
    };
    let places: Vec<_> = tasks.iter().map(places_of).collect();
    let tasks: Vec<_> = std::iter::zip(tasks, places).collect();
    let one = |(task, to): (Task, Vec<&mut [f32]>)| task.run(kernel, &q, to);
    if work < WORTH_SHARING {
        tasks.into_iter().for_each(one);
    } else {
        tasks.into_par_iter().for_each(one);
    }
    Ok(mixed)
}

struct Queries<'a> {
    /// `[rows, heads, width]`
    values: &'a [f32],
    heads: usize,
    width: usize,
}

impl Queries<'_> {
    /// Which of all queries one of a task's is, `[rows, heads]`.
    fn place(&self, task: &Task, query: usize) -> usize {
        let (head, row) = (query / task.seen.rows, query % task.seen.rows);
        let share = self.heads / task.seen.memory.sizes.heads;
        (task.first_row + row) * self.heads + task.group * share + head
    }

    fn get(&self, task: &Task, query: usize) -> &[f32] {
        &self.values[self.place(task, query) * self.width..][..self.width]
    }
}

impl Task<'_> {
    /// What its queries see, each to a place `[width]` of its own.
    fn run(&self, kernel: Kernel, q: &Queries, to: Vec<&mut [f32]>) {
        let Seen { memory, visible, .. } = *self.seen;
        let Sizes { width, canvas, tile, .. } = memory.sizes;
        let (of_keys, of_values) = memory.sizes.of_head();
        // As two panels of weights `[width][16]`; missing ones are 0.
        let mut panels = vec![[0.0; PANEL]; PANELS * width];
        for (at, query) in self.queries.clone().enumerate() {
            let panel = &mut panels[at / PANEL * width..][..width];
            panel.iter_mut().zip(q.get(self, query)).for_each(|(to, value)| to[at % PANEL] = *value);
        }
        let count = self.queries.len().div_ceil(PANEL);
        let weights: Vec<_> = panels.chunks_exact(width).take(count).collect();
        let (whole, components) = (visible.div_ceil(tile) * tile, width.div_ceil(tile) * tile);
        let mut scores = vec![[[0.0_f32; PANEL]; PANELS]; whole];
        let keys = &memory.keys[self.group * of_keys..][..whole * width];
        let mut columns = Columns::of(&mut scores, count);
        for (number, keys) in keys.chunks_exact(tile * width).enumerate() {
            kernel.multiply(keys, &weights, columns.rows(number * tile..(number + 1) * tile), false);
        }
        let scale = 1.0 / (width as f32).sqrt();
        let sums = simd::run(SoftMax { scores: &mut scores[..visible], scale });
        // Its columns side by side, as weights `[positions][16]`.
        let mut shares = vec![[0.0; PANEL]; PANELS * visible];
        for (position, row) in scores[..visible].iter().enumerate() {
            for (panel, lanes) in row.iter().enumerate() {
                shares[panel * visible + position] = *lanes;
            }
        }
        let mut mixed = vec![[[0.0_f32; PANEL]; PANELS]; components];
        let mut columns = Columns::of(&mut mixed, count);
        let values = &memory.values[self.group * of_values..][..of_values];
        for (number, values) in values.chunks_exact(canvas * tile).enumerate() {
            for start in (0..visible).step_by(CHUNK) {
                let part = start..visible.min(start + CHUNK);
                let weights: Vec<_> =
                    shares.chunks_exact(visible).take(count).map(|panel| &panel[part.clone()]).collect();
                let values = &values[part.start * tile..part.end * tile];
                let to = columns.rows(number * tile..(number + 1) * tile);
                kernel.multiply(values, &weights, to, start > 0);
            }
        }
        for (at, to) in to.into_iter().enumerate() {
            let (panel, lane) = (at / PANEL, at % PANEL);
            let norm = 1.0 / sums[panel][lane];
            to.iter_mut().zip(&mixed).for_each(|(to, row)| *to = row[panel][lane] * norm);
        }
    }
}

/// e^(scale * (score - the query's largest)) in place of scores `[positions][queries]`; finds their sums.
struct SoftMax<'a> {
    scores: &'a mut [[[f32; PANEL]; PANELS]],
    scale: f32,
}

impl simd::Kernel for SoftMax<'_> {
    type Found = [[f32; PANEL]; PANELS];

    #[inline(always)]
    fn run(self) -> Self::Found {
        let mut largest = [[f32::NEG_INFINITY; PANEL]; PANELS];
        for row in &*self.scores {
            for (largest, score) in largest.as_flattened_mut().iter_mut().zip(row.as_flattened()) {
                *largest = if score > largest { *score } else { *largest };
            }
        }
        let mut sums = [[0.0; PANEL]; PANELS];
        // Short sums of sums: a single chain over a long canvas would lose digits.
        for rows in self.scores.chunks_mut(64) {
            let mut part = [[0.0; PANEL]; PANELS];
            for row in rows {
                let lanes = row.as_flattened_mut().iter_mut().zip(largest.as_flattened());
                for ((score, largest), part) in lanes.zip(part.as_flattened_mut()) {
                    *score = simd::exp((*score - largest) * self.scale);
                    *part += *score;
                }
            }
            sums.as_flattened_mut().iter_mut().zip(part.as_flattened()).for_each(|(sum, part)| *sum += part);
        }
        sums
    }
}

#[cfg(test)]
mod tests;
