//! Keys and values of a sequence, where attention finds them.

use std::sync::Arc;

use candle_core::{Result, bail};
use rayon::prelude::*;

use crate::model::product::VALUES_WORTH_SHARING;
use crate::model::product::kernel::Kernel;

/// Of keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub heads: usize,
    /// Components of a head.
    pub width: usize,
    pub canvas: usize,
    /// Positions, or components, of a tile.
    pub tile: usize,
}

impl Sizes {
    /// Values of a head's keys, and of its values.
    pub fn of_head(self) -> (usize, usize) {
        let whole = |count: usize| count.div_ceil(self.tile) * self.tile;
        (whole(self.canvas) * self.width, whole(self.width) * self.canvas)
    }
}

/// Keys and values of one layer of a sequence, in the tiles that kernels take. They are f32.
#[derive(Debug)]
pub struct KeyValues {
    pub(super) sizes: Sizes,
    /// `[heads][canvas / tile][width][tile of positions]`
    pub(super) keys: Vec<f32>,
    /// `[heads][width / tile][canvas][tile of components]`
    pub(super) values: Vec<f32>,
}

impl KeyValues {
    /// Zeros for `heads` heads of `width` components at `canvas` positions.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn reserve(heads: usize, width: usize, canvas: usize) -> Result<Self> {
        let tile = Kernel::of_this_processor().short_tile();
        let zeros = |count: usize| {
            let mut memory = room(count)?;
            memory.resize(count, 0.0);
            Ok::<_, candle_core::Error>(memory)
        };
        // More than can be counted is more than there is.
        let sized =
            |positions: usize, components: usize| positions.saturating_mul(components).saturating_mul(heads);
        let keys = zeros(sized(canvas.div_ceil(tile) * tile, width))?;
        let values = zeros(sized(canvas, width.div_ceil(tile) * tile))?;
        Ok(Self { sizes: Sizes { heads, width, canvas, tile }, keys, values })
    }

    /// Write keys and values `[positions, heads, width]` of positions from `start` on.
    ///
    /// # Errors
    /// They are outside the canvas.
    pub fn write(&mut self, start: usize, keys: &[f32], values: &[f32]) -> Result<()> {
        let rows = keys.len() / (self.sizes.heads * self.sizes.width);
        write(vec![(self, (start..start + rows).collect())], keys, values)
    }

    /// Keys and values `[positions, heads, width]` of positions from `start` on.
    ///
    /// # Errors
    /// They are outside the canvas, or there is no memory for them.
    pub fn read(&self, start: usize, positions: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let Sizes { heads, width, canvas, tile } = self.sizes;
        if start + positions > canvas {
            bail!("{positions} positions from {start} on are not within a canvas of {canvas}");
        }
        let (of_keys, of_values) = self.sizes.of_head();
        let count = positions * heads * width;
        let mut found = (room(count)?, room(count)?);
        for position in start..start + positions {
            for head in 0..heads {
                let keys = &self.keys[head * of_keys + position / tile * width * tile..][..width * tile];
                found.0.extend(keys.iter().skip(position % tile).step_by(tile));
                let values = &self.values[head * of_values..][..of_values];
                found.1.extend((0..width).map(|component| {
                    values[(component / tile * canvas + position) * tile + component % tile]
                }));
            }
        }
        Ok(found)
    }
}

/// Memory for so many values and no more.
fn room(count: usize) -> Result<Vec<f32>> {
    let mut memory = Vec::new();
    match memory.try_reserve_exact(count) {
        Ok(()) => Ok(memory),
        Err(_) => bail!("no memory for K/V"),
    }
}

/// Write keys and values `[rows, heads, width]`: the rows of all sequences one after the other, each sequence's to these
/// positions.
///
/// # Errors
/// A position is outside its canvas, or the sizes do not fit; nothing is written then.
pub fn write(sequences: Vec<(&mut KeyValues, Vec<usize>)>, keys: &[f32], values: &[f32]) -> Result<()> {
    let mut of_heads = Vec::new();
    let mut first = 0;
    for (memory, positions) in sequences {
        let KeyValues { sizes, keys: to_keys, values: to_values } = memory;
        if let Some(position) = positions.iter().find(|position| **position >= sizes.canvas) {
            bail!("position {position} is not within a canvas of {}", sizes.canvas);
        }
        let rows = first..first + positions.len() * sizes.heads * sizes.width;
        let (Some(keys), Some(values)) = (keys.get(rows.clone()), values.get(rows.clone())) else {
            bail!("{} values of keys and {} of values for {} and more", keys.len(), values.len(), rows.end);
        };
        first = rows.end;
        let (of_keys, of_values) = sizes.of_head();
        let positions = Arc::new(positions);
        let to = std::iter::zip(to_keys.chunks_exact_mut(of_keys), to_values.chunks_exact_mut(of_values));
        of_heads.extend(to.enumerate().map(|(head, (to_keys, to_values))| OfHead {
            sizes: *sizes,
            head,
            positions: Arc::clone(&positions),
            keys: (keys, to_keys),
            values: (values, to_values),
        }));
    }
    if first != keys.len() || first != values.len() {
        bail!("{} values of keys and {} of values for {first}", keys.len(), values.len());
    }
    if first < VALUES_WORTH_SHARING {
        of_heads.into_iter().for_each(OfHead::write);
    } else {
        of_heads.into_par_iter().for_each(OfHead::write);
    }
    Ok(())
}

/// What is written of one head of a sequence.
struct OfHead<'a> {
    sizes: Sizes,
    head: usize,
    /// Of the rows.
    positions: Arc<Vec<usize>>,
    /// From `[rows, heads, width]` to the head's tiles.
    keys: (&'a [f32], &'a mut [f32]),
    values: (&'a [f32], &'a mut [f32]),
}

impl OfHead<'_> {
    fn write(self) {
        let Sizes { heads, width, canvas, tile } = self.sizes;
        let (keys, to) = self.keys;
        for (position, row) in self.positions.iter().zip(keys.chunks_exact(heads * width)) {
            let (number, lane) = (position / tile, position % tile);
            let to = &mut to[number * width * tile..][..width * tile];
            for (to, key) in to.chunks_exact_mut(tile).zip(&row[self.head * width..][..width]) {
                to[lane] = *key;
            }
        }
        let (values, to) = self.values;
        for (position, row) in self.positions.iter().zip(values.chunks_exact(heads * width)) {
            for (number, from) in row[self.head * width..][..width].chunks(tile).enumerate() {
                to[(number * canvas + position) * tile..][..from.len()].copy_from_slice(from);
            }
        }
    }
}
