//! The kernel by which segments of different lengths attend in one call. The only place that knows whether this program was
//! built with flash-attn. On the CPU candle's kernel stands in for it, so that tests run the same plans without a GPU.

use candle_core::{D, DType, Device, Result, Tensor};

/// Which rows attend to which places.
#[derive(Debug)]
pub struct Lengths {
    /// `[segments + 1]` (u32): where each segment's rows begin, and the end.
    pub row_starts: Tensor,
    /// `[segments + 1]` (u32): where the places that it sees begin.
    pub place_starts: Tensor,
    /// Rows of the longest segment, places of the one that sees most.
    pub longest: (usize, usize),
}

/// The widest heads of flash-attn's kernels.
const WIDEST: usize = 512;

/// Why there is no kernel on a device for K/V of this type and heads of this width; `None`: there is one, and it was tried.
pub fn refuses(device: &Device, dtype: DType, width: usize) -> Option<String> {
    if !device.is_cpu() {
        if !gpu::BUILT {
            return Some("this program was built without flash-attn (docs/cuda.md)".to_owned());
        }
        if dtype != DType::BF16 {
            return Some(format!("flash-attn takes bf16 weights, not {}", dtype.as_str()));
        }
        if width > WIDEST || !width.is_multiple_of(8) {
            return Some(format!("flash-attn takes heads of a multiple of 8 up to {WIDEST}, not of {width}"));
        }
    }
    match tried(device, dtype, width) {
        Ok(true) => None,
        Ok(false) => Some("the kernel of flash-attn does not run on this device".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Whether the kernel gives what it must: it does not tell when a device cannot run it. Two segments, whose rows see nothing
/// but one number, so they must find it; keys and values lie as in a pool, and two heads of queries share them.
fn tried(device: &Device, dtype: DType, width: usize) -> Result<bool> {
    let of = |rows: usize, heads: usize, number: f32| {
        Tensor::full(number, (rows, heads, width), device)?.to_dtype(dtype)
    };
    let lengths = Lengths {
        row_starts: Tensor::new(&[0_u32, 1, 3], device)?,
        place_starts: Tensor::new(&[0_u32, 4, 6], device)?,
        longest: (2, 4),
    };
    let values = Tensor::cat(&[of(4, 1, 3.0)?, of(2, 1, 5.0)?], 0)?;
    let kv = Tensor::cat(&[of(6, 1, 1.0)?, values], 1)?;
    let mixed = attend((&of(3, 2, 1.0)?, &kv.narrow(1, 0, 1)?, &kv.narrow(1, 1, 1)?), &lengths)?;
    let mixed = mixed.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let wanted: Vec<f32> =
        [3.0, 5.0, 5.0].into_iter().flat_map(|n| std::iter::repeat_n(n, 2 * width)).collect();
    let near = std::iter::zip(&mixed, &wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-3);
    Ok(near && mixed.len() == wanted.len())
}

/// q `[rows, H, h]`, k and v `[places, G, h]`, which may lie apart but for h → `[rows, H, h]`, all of one type: each segment's
/// rows attend to all of its places, scores divided by the root of h.
///
/// # Errors
/// There is no kernel for them, or the device fails.
pub fn attend((q, k, v): (&Tensor, &Tensor, &Tensor), lengths: &Lengths) -> Result<Tensor> {
    #[expect(clippy::cast_precision_loss, reason = "a head has some hundred components")]
    let scale = 1.0 / (q.dim(D::Minus1)? as f32).sqrt();
    if q.device().is_cpu() { cpu((q, k, v), lengths, scale) } else { gpu::attend((q, k, v), lengths, scale) }
}

/// Sums are f32, and results are rounded as the GPU's kernel rounds them.
fn cpu((q, k, v): (&Tensor, &Tensor, &Tensor), lengths: &Lengths, scale: f32) -> Result<Tensor> {
    let wide = |x: &Tensor| x.to_dtype(DType::F32);
    let each = |starts: &Tensor| {
        let last = starts.dim(0)? - 1;
        starts.narrow(0, 1, last)? - starts.narrow(0, 0, last)?
    };
    let (rows, places) = (each(&lengths.row_starts)?, each(&lengths.place_starts)?);
    let (most_rows, most_places) = lengths.longest;
    let mixed = candle_nn::attention::flash_attn_varlen_cpu(
        &wide(q)?,
        &wide(k)?,
        &wide(v)?,
        None,
        &rows,
        &places,
        most_rows,
        most_places,
        scale,
        false,
        None,
        None,
    );
    mixed?.to_dtype(q.dtype())
}

#[cfg(not(feature = "flash-attn"))]
mod gpu {
    use super::{Lengths, Result, Tensor};

    /// Whether this program has the kernel.
    pub const BUILT: bool = false;

    pub fn attend(_: (&Tensor, &Tensor, &Tensor), _: &Lengths, _: f32) -> Result<Tensor> {
        candle_core::bail!("this program was built without flash-attn")
    }
}

#[cfg(feature = "flash-attn")]
mod gpu {
    use super::{Lengths, Result, Tensor};

    /// Whether this program has the kernel.
    pub const BUILT: bool = true;

    pub fn attend((q, k, v): (&Tensor, &Tensor, &Tensor), lengths: &Lengths, scale: f32) -> Result<Tensor> {
        let Lengths { row_starts, place_starts, longest: (rows, places) } = lengths;
        candle_flash_attn::flash_attn_varlen(q, k, v, row_starts, place_starts, *rows, *places, scale, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_that_stands_in_for_the_gpu_s_gives_what_it_must() {
        for dtype in [DType::F32, DType::BF16] {
            assert_eq!(refuses(&Device::Cpu, dtype, 16), None);
        }
    }
}
