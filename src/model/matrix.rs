//! A weight matrix: packed for the processor, or as it is on a device.

use candle_core::{DType, Result, Tensor};

use super::device::{Counts, Op};
use super::product::Packed;

/// y = x W^T.
#[derive(Debug)]
pub enum Matrix {
    /// For the own products on the processor.
    Packed(Packed),
    /// `[out, in]` in f32 or bf16, for the device's. Rows are rounded to bf16 for bf16 weights, and the result is f32.
    Dense(Tensor),
}

impl Matrix {
    /// x `[rows, in]` in f32 → `[rows, out]` in f32.
    ///
    /// # Errors
    /// The widths differ, or the device fails.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(weight) => weight.product(x),
            Self::Dense(weight) => x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32),
        }
    }

    /// Count a product. Of the own ones nothing is: they launch nothing.
    pub fn count(&self, counts: &Counts) {
        if let Self::Dense(weight) = self {
            counts.add(Op::Product, 1);
            counts.add(Op::Cast, if weight.dtype() == DType::F32 { 0 } else { 2 });
        }
    }
}
