//! Loops with instructions of x86.

use std::arch::x86_64::{
    __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_storeu_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_storeu_ps,
};

use super::super::blocks::Block;
use super::super::columns::Columns;
use super::PANEL;

/// Inputs that a panel's weights are asked for ahead: the way from memory is long, and the processor does not see that two
/// panels are read at once.
const AHEAD: usize = 32;

/// A kernel for each height, so that the sums of a tile stay in registers, of one panel or of two: a value of a row is then
/// read once for both.
macro_rules! by_size {
    ($kernel:ident, $height:expr, $weights:ident, $tile:ident, $to:ident, $onto:ident, $($known:literal)*) => {
        match ($height, $weights) {
            $(($known, &[one]) => $kernel::<$known, 1>($tile, [one], $to, $onto),)*
            $(($known, &[one, two]) => $kernel::<$known, 2>($tile, [one, two], $to, $onto),)*
            _ => unreachable!("a tile has a known height"),
        }
    };
}

/// # Safety
/// The processor has AVX-512F; the sizes fit (`Kernel::check`).
#[target_feature(enable = "avx512f")]
pub unsafe fn avx512(tile: &[f32], weights: &[&[[f32; PANEL]]], to: Columns, onto: bool) {
    // SAFETY: the caller's promise.
    unsafe { by_size!(tile512, to.height(), weights, tile, to, onto, 1 2 3 4 5 6 7 8 9 10 11 12) }
}

#[target_feature(enable = "avx512f")]
unsafe fn tile512<const HEIGHT: usize, const PANELS: usize>(
    tile: &[f32],
    weights: [&[[f32; PANEL]]; PANELS],
    mut to: Columns,
    onto: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); PANELS]; HEIGHT];
    let (mut value, first, stride) = (tile.as_ptr(), to.first(), to.stride());
    // SAFETY: the pointers move over the slices once, in steps of a row of each; the sums are within `to`.
    unsafe {
        if onto {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (panel, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(first.add(row * stride + panel * PANEL));
                }
            }
        }
        for input in 0..weights[0].len() {
            // No closure: the compiler would not take it into a function with these instructions.
            let mut of_input = [_mm512_setzero_ps(); PANELS];
            for (weight, weights) in of_input.iter_mut().zip(weights) {
                let at = weights.as_ptr().add(input);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                *weight = _mm512_loadu_ps(at.cast());
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*value.add(row));
                for (sum, weight) in sums.iter_mut().zip(of_input) {
                    *sum = _mm512_fmadd_ps(value, weight, *sum);
                }
            }
            value = value.add(HEIGHT);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (panel, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(first.add(row * stride + panel * PANEL), *sum);
            }
        }
    }
}

/// # Safety
/// The processor has AVX-512F, BW and BF16; the sizes fit (`Kernel::check`).
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn avx512bf16(tile: &[u32], weights: &[&[[u32; PANEL]]], to: Columns, onto: bool) {
    // SAFETY: the caller's promise.
    unsafe { by_size!(pairs512, to.height(), weights, tile, to, onto, 1 2 3 4 5 6 7 8 9 10 11 12) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pairs512<const HEIGHT: usize, const PANELS: usize>(
    tile: &[u32],
    weights: [&[[u32; PANEL]]; PANELS],
    mut to: Columns,
    onto: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); PANELS]; HEIGHT];
    let (mut pair, first, stride) = (tile.as_ptr(), to.first(), to.stride());
    // SAFETY: as in `tile512`; the registers of pairs are their bits.
    unsafe {
        let zero = std::mem::transmute::<__m512i, __m512bh>(_mm512_setzero_si512());
        if onto {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (panel, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(first.add(row * stride + panel * PANEL));
                }
            }
        }
        for inputs in 0..weights[0].len() {
            let mut of_pair = [zero; PANELS];
            for (weight, weights) in of_pair.iter_mut().zip(weights) {
                let at = weights.as_ptr().add(inputs);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                *weight = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_epi32((*pair.add(row)).cast_signed());
                let value = std::mem::transmute::<__m512i, __m512bh>(value);
                for (sum, weight) in sums.iter_mut().zip(of_pair) {
                    *sum = _mm512_dpbf16_ps(*sum, value, weight);
                }
            }
            pair = pair.add(HEIGHT);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (panel, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(first.add(row * stride + panel * PANEL), *sum);
            }
        }
    }
}

/// # Safety
/// The processor has AVX2 and FMA; the sizes fit (`Kernel::check`).
#[target_feature(enable = "avx2,fma")]
pub unsafe fn avx2(tile: &[f32], weights: &[&[[f32; PANEL]]], mut to: Columns, onto: bool) {
    // There are registers for the sums of one panel.
    for (panel, weights) in weights.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { by_height!(tile256, to.height(), (tile, weights, &mut to, panel, onto), 1 2 3 4 5 6) }
    }
}

macro_rules! by_height {
    ($kernel:ident, $height:expr, $arguments:tt, $($known:literal)*) => {
        match $height {
            $($known => $kernel::<$known> $arguments,)*
            _ => unreachable!("a tile has a known height"),
        }
    };
}
use by_height;

#[target_feature(enable = "avx2,fma")]
unsafe fn tile256<const HEIGHT: usize>(
    tile: &[f32],
    weights: &[[f32; PANEL]],
    to: &mut Columns,
    panel: usize,
    onto: bool,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; HEIGHT];
    let (mut value, first, stride) = (tile.as_ptr(), to.first().wrapping_add(panel * PANEL), to.stride());
    // SAFETY: as in `tile512`.
    unsafe {
        if onto {
            for (row, sum) in sums.iter_mut().enumerate() {
                sum[0] = _mm256_loadu_ps(first.add(row * stride));
                sum[1] = _mm256_loadu_ps(first.add(row * stride + 8));
            }
        }
        for weights in weights {
            let weight = [_mm256_loadu_ps(weights.as_ptr()), _mm256_loadu_ps(weights.as_ptr().add(8))];
            for (row, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*value.add(row));
                sum[0] = _mm256_fmadd_ps(value, weight[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(value, weight[1], sum[1]);
            }
            value = value.add(HEIGHT);
        }
        for (row, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(first.add(row * stride), sum[0]);
            _mm256_storeu_ps(first.add(row * stride + 8), sum[1]);
        }
    }
}

/// # Safety
/// The processor has AVX-512F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn widen512<B: Block>(block: &B, to: &mut [[f32; PANEL]]) {
    // SAFETY: the caller's promise.
    unsafe { block.widen512(to) }
}

/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn widen256<B: Block>(block: &B, to: &mut [[f32; PANEL]]) {
    block.widen(to);
}
