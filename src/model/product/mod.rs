//! Products of packed rows and a weight matrix on the CPU.
//!
//! A row's result must not depend, to the bit, on which rows share its pass. General matrix kernels choose how to cut a
//! product, and with that how they round, by its size and by the processor's caches. Here every output is one chain of
//! multiply-adds in f32 over the inputs in their order, whatever the number of rows and wherever a row lies among them:
//! tiles only decide which chains run side by side.
//!
//! Weights stay in memory in the format they were stored in. Those of f32 and f16 are multiplied as f32; of bf16 weights
//! the rows are rounded to bf16 too, as the models' own code does. Blocks are widened to f32, or to bf16 for a processor
//! with a unit for it.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
mod blocks;
mod columns;
mod kernel;
mod panels;
mod quantized;
mod tiles;

use std::collections::BTreeSet;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::stored::{Format, Stored};
use columns::{Columns, Output};
use kernel::Kernel;
use panels::Panels;

/// Outputs of a panel: what one AVX-512 register holds.
const PANEL: usize = 16;
/// Panels that are multiplied side by side: each value of a row is read once for both.
const PANELS: usize = 2;
/// Inputs that are worked on at a time, so that a piece of a panel lies in a core's first cache while all rows pass it:
/// a multiple of every block.
const CHUNK: usize = 256;
/// Products of fewer multiplications run on the calling thread: waking another costs more than it saves.
const WORTH_SHARING: usize = 1 << 18;
/// The same for values that are only brought into another order, which takes as long as some multiplications each.
const VALUES_WORTH_SHARING: usize = WORTH_SHARING / 16;

/// In which format weight matrices are held in memory.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Holding {
    /// As the checkpoint has them, but a model of 16-bit weights that takes at most 64 MiB so: in f32.
    #[default]
    Auto,
    /// As the checkpoint has them. The rarer block formats of GGUF files become f16.
    #[value(name = "as_stored")]
    AsStored,
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
    /// Blocks of 32 with a scale: 1.06 bytes a weight.
    #[value(name = "q8_0")]
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Blocks of 256 with scales and minima: 0.58 bytes a weight; the head in 0.82.
    Q4k,
}

/// Most bytes of a model that is held in f32 without being asked for: it costs nothing, and gives the same answers on more
/// kinds of processors.
const SMALL: usize = 64 << 20;

impl Holding {
    /// How a model is held of which these many weights are stored in these formats.
    pub fn of_model(self, weights: usize, formats: &BTreeSet<Format>) -> Self {
        let wide = formats.iter().all(|f| matches!(f, Format::F32 | Format::F16 | Format::Bf16));
        if self == Self::Auto && wide && weights <= SMALL / size_of::<f32>() { Self::F32 } else { self }
    }

    /// How a matrix that is stored as `format` is held.
    pub fn of(self, format: Format) -> Format {
        match self {
            Self::Auto | Self::AsStored => match format {
                Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q5K => Format::F16,
                other => other,
            },
            Self::F32 => Format::F32,
            Self::Bf16 => Format::Bf16,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4k => Format::Q4K,
        }
    }

    /// How the head is: what goes wrong in it goes wrong in every answer, so 4 bits become 6.
    pub fn of_head(self, format: Format) -> Format {
        if self == Self::Q4k { Format::Q6K } else { self.of(format) }
    }
}

/// What of the rows of a product is worked on at a time. Kernels without a use for it work on all.
#[derive(Debug, Clone)]
struct Part {
    inputs: Range<usize>,
    /// Up to a whole tile.
    rows: Range<usize>,
}

/// A weight matrix, transposed and cut into panels of 16 outputs.
pub struct Packed {
    inputs: usize,
    outputs: usize,
    panels: Panels,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed {} [{}, {}]", self.panels.format().name(), self.outputs, self.inputs)
    }
}

impl Packed {
    /// From a weight `[outputs, inputs]`, in f32.
    ///
    /// # Errors
    /// It is no matrix on the CPU.
    pub fn new(weight: &Tensor) -> Result<Self> {
        Self::pack(&Stored::of_tensor(weight)?, Format::F32)
    }

    /// From a stored weight `[outputs, inputs]`, held as `format`.
    ///
    /// # Errors
    /// It is no matrix, or weights cannot be held so.
    pub fn pack(weight: &Stored, format: Format) -> Result<Self> {
        let [outputs, inputs] = *weight.shape() else {
            bail!("a shape of {:?} is no matrix", weight.shape())
        };
        Ok(Self { inputs, outputs, panels: Panels::pack(weight, format)? })
    }

    /// Bytes of memory that a weight `[outputs, inputs]` would take as `format`.
    pub fn bytes_as(shape: [usize; 2], format: Format) -> usize {
        Panels::bytes_as(shape, format)
    }

    /// Bytes of memory.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// x `[rows, inputs]` in f32 times the transposed weight: `[rows, outputs]`.
    ///
    /// # Errors
    /// x is no f32 matrix of that width on the CPU.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(&Product(self))
    }

    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let kernel = Kernel::of_this_processor();
        let x = self.panels.rows(kernel, x, self.inputs);
        let mut y = Output::new(rows, self.outputs);
        for part in x.parts() {
            let mut columns: Vec<_> = y.columns(PANELS).enumerate().collect();
            let one =
                |(pair, to): (usize, Columns)| self.panels.multiply(kernel, pair * PANELS, (&x, &part), to);
            if rows * self.inputs * self.outputs < WORTH_SHARING {
                columns.into_iter().for_each(one);
            } else {
                // A task is a few panels: each passes over all rows while it lies in a core's cache.
                let least = columns.len().div_ceil(8 * rayon::current_num_threads());
                columns.par_drain(..).with_min_len(least).for_each(one);
            }
        }
        // SAFETY: each of the panels was multiplied with all rows.
        unsafe { y.finish() }
    }
}

struct Product<'a>(&'a Packed);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        if inputs != self.0.inputs {
            bail!("rows of {inputs} values times a weight of {} columns", self.0.inputs);
        }
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("the rows are not contiguous") };
        let y = if rows == 0 { Vec::new() } else { self.0.multiply(&x.as_slice::<f32>()?[start..end]) };
        Ok((CpuStorage::F32(y), (rows, self.0.outputs).into()))
    }
}

#[cfg(test)]
mod tests;
