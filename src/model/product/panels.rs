//! The weights of a matrix, panel by panel.

use candle_core::quantized::k_quants::{BlockQ4K, BlockQ6K, BlockQ8_0, GgmlType};
use candle_core::{Result, bail};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::amx::{self, RowTiles};
#[cfg(target_arch = "x86_64")]
use super::blocks::ToPairs;
use super::blocks::{Block, Halves, Pairs};
use super::columns::Columns;
use super::kernel::Kernel;
use super::quantized::{Q4K, Q6K, Q8_0};
use super::tiles::Tiles;
use super::{CHUNK, PANEL, PANELS, Part};
use crate::model::stored::{Format, Stored};

/// `[panels][inputs]`, the inputs in blocks; what is missing to the last panel or block is 0.
pub(super) enum Panels {
    F32 { inputs: usize, values: Vec<[f32; PANEL]> },
    F16(Blocks<Halves>),
    Bf16(Blocks<Pairs>),
    Q8_0(Blocks<Q8_0>),
    Q4K(Blocks<Q4K>),
    Q6K(Blocks<Q6K>),
}

/// `[panels][blocks of a panel]`
pub(super) struct Blocks<B> {
    of_panel: usize,
    blocks: Vec<B>,
}

/// Rows that were made ready for a matrix.
pub(super) enum Rows {
    Singles(Tiles<f32>),
    Pairs(Tiles<u32>),
    #[cfg(target_arch = "x86_64")]
    Tiles(RowTiles),
}

impl Rows {
    /// What of the rows is best worked on together, in the order in which it must be.
    pub fn parts(&self) -> Vec<Part> {
        match self {
            // Their kernels cut a panel's inputs themselves.
            Self::Singles(_) | Self::Pairs(_) => vec![Part { inputs: 0..0, rows: 0..0 }],
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(rows) => rows.parts(),
        }
    }
}

impl Panels {
    /// From a weight `[outputs, inputs]`.
    pub fn pack(weight: &Stored, format: Format) -> Result<Self> {
        Ok(match format {
            Format::F32 => Self::singles(weight),
            Format::F16 => Self::F16(Blocks::pack(weight, Format::F16, |row| {
                row.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
            })),
            Format::Bf16 => Self::Bf16(Blocks::pack(weight, Format::Bf16, |row| {
                row.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
            })),
            Format::Q8_0 => Self::Q8_0(Blocks::pack(weight, format, quantize::<BlockQ8_0>)),
            Format::Q4K => Self::Q4K(Blocks::pack(weight, format, quantize::<BlockQ4K>)),
            Format::Q6K => Self::Q6K(Blocks::pack(weight, format, quantize::<BlockQ6K>)),
            other => bail!("weights cannot be held as {}", other.name()),
        })
    }

    fn singles(weight: &Stored) -> Self {
        let (outputs, inputs) = (weight.rows(), weight.width());
        let mut values = vec![[0.0; PANEL]; outputs.div_ceil(PANEL) * inputs];
        values.par_chunks_mut(inputs).enumerate().for_each(|(panel, values)| {
            let mut row = vec![0.0; inputs];
            for lane in 0..PANEL.min(outputs - panel * PANEL) {
                weight.read_row(panel * PANEL + lane, &mut row);
                for (to, value) in values.iter_mut().zip(&row) {
                    to[lane] = *value;
                }
            }
        });
        Self::F32 { inputs, values }
    }

    pub fn format(&self) -> Format {
        match self {
            Self::F32 { .. } => Format::F32,
            Self::F16(_) => Format::F16,
            Self::Bf16(_) => Format::Bf16,
            Self::Q8_0(_) => Format::Q8_0,
            Self::Q4K(_) => Format::Q4K,
            Self::Q6K(_) => Format::Q6K,
        }
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32 { values, .. } => size_of_val(values.as_slice()),
            Self::F16(blocks) => size_of_val(blocks.blocks.as_slice()),
            Self::Bf16(blocks) => size_of_val(blocks.blocks.as_slice()),
            Self::Q8_0(blocks) => size_of_val(blocks.blocks.as_slice()),
            Self::Q4K(blocks) => size_of_val(blocks.blocks.as_slice()),
            Self::Q6K(blocks) => size_of_val(blocks.blocks.as_slice()),
        }
    }

    /// Bytes of a weight `[outputs, inputs]` that is held as `format`.
    pub fn bytes_as([outputs, inputs]: [usize; 2], format: Format) -> usize {
        let (length, size) = block(format);
        outputs.div_ceil(PANEL) * inputs.div_ceil(length) * size
    }

    /// x `[rows, inputs]`, as [`Self::multiply`] wants it.
    pub fn rows(&self, kernel: Kernel, x: &[f32], inputs: usize) -> Rows {
        let width = inputs.next_multiple_of(block(self.format()).0);
        match self {
            Self::Bf16(_) => match kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Amx => Rows::Tiles(RowTiles::new(x, inputs, width)),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx512Bf16 => Rows::Pairs(Tiles::pairs(x, inputs, width / 2, kernel.tallest())),
                _ => {
                    let rounded: Vec<f32> = x.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
                    Rows::Singles(Tiles::singles(&rounded, inputs, width, kernel.tallest()))
                }
            },
            // bf16 rounds away less than blocks did, and the unit is many times faster.
            #[cfg(target_arch = "x86_64")]
            Self::Q8_0(_) | Self::Q4K(_) | Self::Q6K(_) if kernel == Kernel::Amx => {
                Rows::Tiles(RowTiles::new(x, inputs, width))
            }
            _ => Rows::Singles(Tiles::singles(x, inputs, width, kernel.tallest())),
        }
    }

    /// A part of all rows times one or two neighbouring panels, the first of which is `first`, into their columns.
    pub fn multiply(&self, kernel: Kernel, first: usize, (rows, part): (&Rows, &Part), mut to: Columns) {
        match (self, rows) {
            (Self::F32 { inputs, values }, Rows::Singles(rows)) => {
                let panels: Vec<_> =
                    values[first * inputs..].chunks_exact(*inputs).take(to.panels()).collect();
                for start in (0..*inputs).step_by(CHUNK) {
                    let chunk = start..(start + CHUNK).min(*inputs);
                    let weights: Vec<_> = panels.iter().map(|panel| &panel[chunk.clone()]).collect();
                    multiply_chunk(kernel, start, &weights, rows, &mut to);
                }
            }
            (Self::F16(blocks), Rows::Singles(rows)) => blocks.multiply(kernel, first, rows, to),
            (Self::Bf16(blocks), Rows::Singles(rows)) => blocks.multiply(kernel, first, rows, to),
            (Self::Bf16(blocks), Rows::Pairs(rows)) => blocks.multiply_pairs(kernel, first, rows, to),
            (Self::Q8_0(blocks), Rows::Singles(rows)) => blocks.multiply(kernel, first, rows, to),
            (Self::Q4K(blocks), Rows::Singles(rows)) => blocks.multiply(kernel, first, rows, to),
            (Self::Q6K(blocks), Rows::Singles(rows)) => blocks.multiply(kernel, first, rows, to),
            #[cfg(target_arch = "x86_64")]
            (Self::Bf16(blocks), Rows::Tiles(rows)) => blocks.multiply_tiles(first, (rows, part), to),
            #[cfg(target_arch = "x86_64")]
            (Self::Q8_0(blocks), Rows::Tiles(rows)) => blocks.widen_to_tiles(first, (rows, part), to),
            #[cfg(target_arch = "x86_64")]
            (Self::Q4K(blocks), Rows::Tiles(rows)) => blocks.widen_to_tiles(first, (rows, part), to),
            #[cfg(target_arch = "x86_64")]
            (Self::Q6K(blocks), Rows::Tiles(rows)) => blocks.widen_to_tiles(first, (rows, part), to),
            _ => unreachable!("rows are as the weights want them"),
        }
    }
}

/// Inputs of a block of a panel, and its bytes.
fn block(format: Format) -> (usize, usize) {
    match format {
        Format::F32 => (1, size_of::<[f32; PANEL]>()),
        Format::Bf16 => (Pairs::INPUTS, size_of::<Pairs>()),
        Format::Q8_0 => (Q8_0::INPUTS, size_of::<Q8_0>()),
        Format::Q4K => (Q4K::INPUTS, size_of::<Q4K>()),
        Format::Q6K => (Q6K::INPUTS, size_of::<Q6K>()),
        // The other formats are held as f16.
        _ => (Halves::INPUTS, size_of::<Halves>()),
    }
}

/// Rows times some inputs' weights `[len][PANEL]` of each panel, the first of which is `start`.
fn multiply_chunk(
    kernel: Kernel,
    start: usize,
    weights: &[&[[f32; PANEL]]],
    rows: &Tiles<f32>,
    to: &mut Columns,
) {
    for (tile, rows) in rows.part(start..start + weights[0].len()) {
        kernel.multiply(tile, weights, to.rows(rows), start > 0);
    }
}

impl<B: Block> Blocks<B> {
    /// Rows that are stored otherwise are read as f32, and become bytes of this format by `convert`.
    fn pack(weight: &Stored, format: Format, convert: impl Fn(&[f32]) -> Vec<u8> + Sync) -> Self {
        let (outputs, inputs) = (weight.rows(), weight.width());
        let of_panel = inputs.div_ceil(B::INPUTS);
        let mut blocks = vec![B::ZERO; outputs.div_ceil(PANEL) * of_panel];
        let as_stored = weight.format() == format;
        blocks.par_chunks_mut(of_panel).enumerate().for_each(|(panel, blocks)| {
            let mut values = vec![0.0; of_panel * B::INPUTS];
            for lane in 0..PANEL.min(outputs - panel * PANEL) {
                let row = panel * PANEL + lane;
                let converted;
                let bytes = if as_stored {
                    weight.row(row)
                } else {
                    weight.read_row(row, &mut values[..inputs]);
                    converted = convert(&values);
                    &converted
                };
                for (block, bytes) in blocks.iter_mut().zip(bytes.chunks(B::BYTES)) {
                    block.set(lane, bytes);
                }
            }
        });
        Self { of_panel, blocks }
    }

    /// Panels that follow each other, from the first on.
    fn panels(&self, first: usize, count: usize) -> impl Iterator<Item = &[B]> {
        self.blocks[first * self.of_panel..].chunks_exact(self.of_panel).take(count)
    }

    fn multiply(&self, kernel: Kernel, first: usize, rows: &Tiles<f32>, mut to: Columns) {
        let mut wide = [[[0.0; PANEL]; CHUNK]; PANELS];
        let panels = to.panels();
        for start in (0..self.of_panel).step_by(CHUNK / B::INPUTS) {
            let blocks = start..self.of_panel.min(start + CHUNK / B::INPUTS);
            for (panel, wide) in self.panels(first, panels).zip(&mut wide) {
                for (block, wide) in panel[blocks.clone()].iter().zip(wide.chunks_exact_mut(B::INPUTS)) {
                    kernel.widen(block, wide);
                }
            }
            let weights = wide.each_ref().map(|wide| &wide[..blocks.len() * B::INPUTS]);
            multiply_chunk(kernel, start * B::INPUTS, &weights[..panels], rows, &mut to);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl<B: ToPairs> Blocks<B> {
    fn widen_to_tiles(&self, first: usize, (rows, part): (&RowTiles, &Part), to: Columns) {
        let blocks = part.inputs.start / B::INPUTS..part.inputs.end.div_ceil(B::INPUTS);
        let of_panel = blocks.len() * B::INPUTS / 2;
        let mut pairs = vec![[0; PANEL]; to.panels() * of_panel];
        for (panel, pairs) in self.panels(first, to.panels()).zip(pairs.chunks_exact_mut(of_panel)) {
            for (block, pairs) in panel[blocks.clone()].iter().zip(pairs.chunks_exact_mut(B::INPUTS / 2)) {
                amx::pairs(block, pairs);
            }
        }
        let weights: Vec<_> = pairs.chunks_exact(of_panel).collect();
        rows.multiply(part, &weights, to);
    }
}

impl Blocks<Pairs> {
    fn multiply_pairs(&self, kernel: Kernel, first: usize, rows: &Tiles<u32>, mut to: Columns) {
        let panels: Vec<_> = self.panels(first, to.panels()).map(Pairs::words).collect();
        for start in (0..panels[0].len()).step_by(CHUNK / 2) {
            let part = start..panels[0].len().min(start + CHUNK / 2);
            let weights: Vec<_> = panels.iter().map(|panel| &panel[part.clone()]).collect();
            for (tile, rows) in rows.part(part) {
                kernel.multiply_pairs(tile, &weights, to.rows(rows), start > 0);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_tiles(&self, first: usize, (rows, part): (&RowTiles, &Part), to: Columns) {
        let pairs = part.inputs.start / 2..part.inputs.end / 2;
        let panels = self.panels(first, to.panels());
        let weights: Vec<_> = panels.map(|panel| &Pairs::words(panel)[pairs.clone()]).collect();
        rows.multiply(part, &weights, to);
    }
}

/// The bytes of whole blocks that stand for these values.
fn quantize<B: GgmlType>(values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![B::zeros(); values.len() / B::BLCK_SIZE];
    B::from_float(values, &mut blocks);
    let bytes = size_of_val(blocks.as_slice());
    // SAFETY: candle's blocks are plain numbers (`repr(C)`) without padding; the slice lives as long as they do.
    unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), bytes) }.to_vec()
}
