//! Soft-max attention on the CPU, without a mask: every query sees the first positions of its sequence.
//!
//! Two products with a soft-max between them, all three by columns of queries: the weights of the kernels are up to 32
//! queries, their tiles are keys and then values, and what is between them is `[positions][queries]`, so that the soft-max
//! runs along positions in lanes of queries. Each sum is one chain in the order of its terms, whichever queries share it.

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::columns::Columns;
use super::kernel::Kernel;
use super::{CHUNK, PANEL, PANELS, WORTH_SHARING};
use crate::simd;

/// Queries that are worked on together.
const QUERIES: usize = PANEL * PANELS;

/// Keys and values of one layer of a sequence, in the tiles that kernels take. They are f32.
#[derive(Debug)]
pub struct KeyValues {
    heads: usize,
    width: usize,
    canvas: usize,
    tile: usize,
    /// `[heads][canvas / tile][width][tile of positions]`
    keys: Vec<f32>,
    /// `[heads][width / tile][canvas][tile of components]`
    values: Vec<f32>,
}

impl KeyValues {
    /// Zeros for `heads` heads of `width` components at `canvas` positions.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn reserve(heads: usize, width: usize, canvas: usize) -> Result<Self> {
        let tile = Kernel::of_this_processor().short_tile();
        let zeros = |count: Option<usize>| {
            let mut memory: Vec<f32> = Vec::new();
            let reserved = count.filter(|count| memory.try_reserve_exact(*count).is_ok());
            let Some(count) = reserved else { bail!("no memory for K/V") };
            memory.resize(count, 0.0);
            Ok(memory)
        };
        let sized = |positions: usize, components: usize| {
            positions.checked_mul(components).and_then(|count| count.checked_mul(heads))
        };
        let keys = zeros(sized(canvas.div_ceil(tile) * tile, width))?;
        let values = zeros(sized(canvas, width.div_ceil(tile) * tile))?;
        Ok(Self { heads, width, canvas, tile, keys, values })
    }

    /// Values of a head's keys, and of its values.
    fn head_sizes(&self) -> (usize, usize) {
        let whole = |count: usize| count.div_ceil(self.tile) * self.tile;
        (whole(self.canvas) * self.width, whole(self.width) * self.canvas)
    }

    /// Write keys and values `[positions, heads, width]` of positions from `start` on.
    ///
    /// # Errors
    /// They are outside the canvas.
    pub fn write(&mut self, start: usize, keys: &[f32], values: &[f32]) -> Result<()> {
        let row = self.heads * self.width;
        let rows = keys.len() / row;
        if keys.len() != values.len() || !keys.len().is_multiple_of(row) || start + rows > self.canvas {
            bail!("{rows} positions from {start} on are not within a canvas of {}", self.canvas);
        }
        let (of_keys, of_values) = self.head_sizes();
        let (tile, width) = (self.tile, self.width);
        for head in 0..self.heads {
            let to = &mut self.keys[head * of_keys..][..of_keys];
            for (at, row) in keys.chunks_exact(row).enumerate() {
                let (number, lane) = ((start + at) / tile, (start + at) % tile);
                let to = &mut to[number * width * tile..][..width * tile];
                for (to, key) in to.chunks_exact_mut(tile).zip(&row[head * width..][..width]) {
                    to[lane] = *key;
                }
            }
            let to = &mut self.values[head * of_values..][..of_values];
            for (at, row) in values.chunks_exact(row).enumerate() {
                for (number, from) in row[head * width..][..width].chunks(tile).enumerate() {
                    to[(number * self.canvas + start + at) * tile..][..from.len()].copy_from_slice(from);
                }
            }
        }
        Ok(())
    }

    /// Keys and values `[positions, heads, width]` of positions from `start` on.
    ///
    /// # Errors
    /// They are outside the canvas.
    pub fn read(&self, start: usize, positions: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        if start + positions > self.canvas {
            bail!("{positions} positions from {start} on are not within a canvas of {}", self.canvas);
        }
        let (of_keys, of_values) = self.head_sizes();
        let (tile, width) = (self.tile, self.width);
        let mut found = (Vec::new(), Vec::new());
        for position in start..start + positions {
            for head in 0..self.heads {
                let keys = &self.keys[head * of_keys + position / tile * width * tile..][..width * tile];
                found.0.extend(keys.iter().skip(position % tile).step_by(tile));
                let values = &self.values[head * of_values..][..of_values];
                found.1.extend((0..width).map(|component| {
                    values[(component / tile * self.canvas + position) * tile + component % tile]
                }));
            }
        }
        Ok(found)
    }
}

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
    /// Of the sequence's queries of this group, `[query heads of the group][rows]`, the first that is meant.
    first: usize,
}

/// Attention of all sequences: q `[rows, query heads, width]`, the rows in the order of `sequences` → the same shape. Query
/// head i reads key/value head i / (query heads / heads).
///
/// # Errors
/// The sizes do not fit.
pub fn attend(q: &[f32], query_heads: usize, sequences: &[Seen]) -> Result<Vec<f32>> {
    let mut tasks = Vec::new();
    let mut work = 0;
    let mut row = 0;
    for seen in sequences {
        let KeyValues { heads, canvas, width, .. } = *seen.memory;
        if !query_heads.is_multiple_of(heads) || seen.visible > canvas || seen.visible == 0 {
            bail!("{query_heads} heads of queries on {heads} that see {} of {canvas}", seen.visible);
        }
        let queries = query_heads / heads * seen.rows;
        for group in 0..heads {
            let firsts = (0..queries).step_by(QUERIES);
            tasks.extend(firsts.map(|first| Task { seen, group, first_row: row, first }));
        }
        row += seen.rows;
        work += 2 * query_heads * seen.rows * seen.visible * width;
    }
    let width = sequences.first().map_or(0, |seen| seen.memory.width);
    if q.len() != row * query_heads * width || sequences.iter().any(|seen| seen.memory.width != width) {
        bail!("{} values of queries for {row} rows of {query_heads} heads", q.len());
    }
    let kernel = Kernel::of_this_processor();
    let q = Queries { values: q, heads: query_heads, width };
    let mut found = vec![0.0; tasks.len() * QUERIES * width];
    let one = |(task, to): (&Task, &mut [f32])| task.run(kernel, &q, to);
    if work < WORTH_SHARING {
        tasks.iter().zip(found.chunks_exact_mut(QUERIES * width)).for_each(one);
    } else {
        tasks.par_iter().zip(found.par_chunks_exact_mut(QUERIES * width)).for_each(one);
    }
    let mut mixed = vec![0.0; q.values.len()];
    for (task, found) in tasks.iter().zip(found.chunks_exact(QUERIES * width)) {
        for (query, found) in found.chunks_exact(width).take(task.queries(&q)).enumerate() {
            mixed[q.place(task, query)..][..width].copy_from_slice(found);
        }
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
    /// Where a task's query begins.
    fn place(&self, task: &Task, query: usize) -> usize {
        let (head, row) = ((task.first + query) / task.seen.rows, (task.first + query) % task.seen.rows);
        let share = self.heads / task.seen.memory.heads;
        ((task.first_row + row) * self.heads + task.group * share + head) * self.width
    }
}

impl Task<'_> {
    /// How many queries it has.
    fn queries(&self, q: &Queries) -> usize {
        let share = q.heads / self.seen.memory.heads;
        QUERIES.min(share * self.seen.rows - self.first)
    }

    /// What its queries see, `[queries][width]`.
    fn run(&self, kernel: Kernel, q: &Queries, to: &mut [f32]) {
        let Seen { memory, visible, .. } = *self.seen;
        let KeyValues { width, canvas, tile, .. } = *memory;
        let (of_keys, of_values) = memory.head_sizes();
        let queries = self.queries(q);
        // As two panels of weights `[width][16]`; missing ones are 0.
        let mut panels = vec![[0.0; PANEL]; PANELS * width];
        for query in 0..queries {
            let from = &q.values[q.place(self, query)..][..width];
            let panel = &mut panels[query / PANEL * width..][..width];
            panel.iter_mut().zip(from).for_each(|(to, value)| to[query % PANEL] = *value);
        }
        let count = queries.div_ceil(PANEL);
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
        for (query, to) in to.chunks_exact_mut(width).take(queries).enumerate() {
            let (panel, lane) = (query / PANEL, query % PANEL);
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
