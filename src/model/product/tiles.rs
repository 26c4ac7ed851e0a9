//! Rows in groups that one kernel call works on.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::VALUES_WORTH_SHARING;

/// Each group of rows is transposed: rows that lie a power of two apart would otherwise meet in the same few lines of the
/// cache. `T` is one value, or a pair of neighbours.
pub(super) struct Tiles<T> {
    /// `T`s of a row.
    width: usize,
    tallest: usize,
    rows: usize,
    /// `[tiles][width][rows of the tile]`; the last tile may have fewer rows.
    values: Vec<T>,
}

impl Tiles<f32> {
    /// From x `[rows, inputs]`, filled up with zeros to `width` values a row.
    pub fn singles(x: &[f32], inputs: usize, width: usize, tallest: usize) -> Self {
        Self::new(x, inputs, width, tallest, |row| row.iter().copied())
    }
}

impl Tiles<u32> {
    /// From x `[rows, inputs]`, rounded to bf16: a pair has its first value in the lower half.
    pub fn pairs(x: &[f32], inputs: usize, width: usize, tallest: usize) -> Self {
        let bits = |value: f32| u32::from(bf16::from_f32(value).to_bits());
        Self::new(x, inputs, width, tallest, |row| {
            row.chunks(2).map(move |pair| bits(pair[0]) | bits(pair.get(1).copied().unwrap_or(0.0)) << 16)
        })
    }
}

impl<T: Copy + Default + Send> Tiles<T> {
    fn new<'a, I: Iterator<Item = T>>(
        x: &'a [f32],
        inputs: usize,
        width: usize,
        tallest: usize,
        values_of: impl Fn(&'a [f32]) -> I + Sync,
    ) -> Self {
        let rows = x.len() / inputs;
        let mut values = vec![T::default(); rows * width];
        let one = |(tile, rows): (&mut [T], &'a [f32])| {
            let height = rows.len() / inputs;
            for (row, from) in rows.chunks_exact(inputs).enumerate() {
                for (value, to) in values_of(from).zip(tile[row..].iter_mut().step_by(height)) {
                    *to = value;
                }
            }
        };
        if x.len() < VALUES_WORTH_SHARING {
            values.chunks_mut(tallest * width).zip(x.chunks(tallest * inputs)).for_each(one);
        } else {
            values.par_chunks_mut(tallest * width).zip(x.par_chunks(tallest * inputs)).for_each(one);
        }
        Self { width, tallest, rows, values }
    }

    /// The columns `part` of every tile `[part][rows of the tile]`, with where its rows begin and end.
    pub fn part(&self, part: Range<usize>) -> impl Iterator<Item = (&[T], Range<usize>)> {
        let tiles = self.values.chunks(self.tallest * self.width).enumerate();
        tiles.map(move |(number, tile)| {
            let first = number * self.tallest;
            let height = self.tallest.min(self.rows - first);
            (&tile[part.start * height..part.end * height], first..first + height)
        })
    }
}
