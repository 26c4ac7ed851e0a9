//! Tensors in host memory, as slices.

use std::mem::MaybeUninit;

use candle_core::{Device, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// Values of a piece of work: with fewer, waking another thread costs more than it saves.
const PIECE: usize = 1 << 15;

/// The f32 values of a tensor, without a copy where they are contiguous in host memory.
///
/// # Errors
/// They are no f32, or the device fails.
pub fn read<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => {
            let start = layout.start_offset();
            Ok(read(&storage.as_slice::<f32>()?[start..start + layout.shape().elem_count()]))
        }
        _ => Ok(read(&tensor.flatten_all()?.to_vec1::<f32>()?)),
    }
}

/// A tensor of rows of `width` values. `fill` is given the number of a row and it and some that follow, on several threads
/// where that is worth it.
///
/// # Errors
/// The shape has no such rows.
pub fn fill(shape: &Shape, width: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Result<Tensor> {
    let count = shape.elem_count();
    if width == 0 || !count.is_multiple_of(width) {
        bail!("a tensor {shape:?} has no rows of {width} values");
    }
    let mut values = Vec::with_capacity(count);
    let memory = &mut values.spare_capacity_mut()[..count];
    let rows = (PIECE / width).max(1);
    // Who fills a piece also makes it zeros before, so that it lies in that core's cache and nobody waits for one thread.
    let one = |(piece, memory): (usize, &mut [MaybeUninit<f32>])| {
        memory.fill(MaybeUninit::new(0.0));
        // SAFETY: all of it was just written.
        fill(piece * rows, unsafe { memory.assume_init_mut() });
    };
    if count < 2 * PIECE {
        one((0, memory));
    } else {
        memory.par_chunks_mut(rows * width).enumerate().for_each(one);
    }
    // SAFETY: all pieces have been written.
    unsafe { values.set_len(count) };
    Tensor::from_vec(values, shape, &Device::Cpu)
}
