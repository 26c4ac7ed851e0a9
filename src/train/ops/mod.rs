//! The differentiable operations of the network. On the CPU in f32 each is one fused pass with its own backward; on
//! any other device it is composed of candle's own operations, which are also what the tests compare it with.

mod attention;
mod cross_entropy;
mod linear;
mod mixture;
mod norm;
mod swiglu;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};

pub use crate::simd::exp;
pub use attention::{Heads, attention};
pub use cross_entropy::cross_entropy;
pub use linear::linear;
pub use mixture::{Mixture, embed};
pub use norm::rms_norm;
pub use swiglu::swiglu;

/// Whether the fused passes apply to a tensor.
fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The elements of a contiguous CPU tensor inside a custom operation.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, stop)) => Ok(&storage.as_slice::<f32>()?[start..stop]),
        None => bail!("a fused operation was given a strided tensor"),
    }
}

/// Read the elements of a CPU tensor in place.
pub(crate) fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(elements(storage, layout)?)),
        _ => bail!("a fused operation was given a tensor that is not on the CPU"),
    }
}
