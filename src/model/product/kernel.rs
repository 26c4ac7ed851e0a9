//! The innermost loops, by what instructions there are.

use super::PANEL;
use super::blocks::Block;

/// Which instructions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// With a unit for tiles of bf16.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// With products of bf16 pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Kernel {
    pub fn of_this_processor() -> Self {
        // So that the path of other processors can be tried on this one.
        if cfg!(feature = "portable") {
            return Self::Plain;
        }
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                return match is_x86_feature_detected!("avx512bf16") {
                    true if super::amx::is_there() => Self::Amx,
                    true => Self::Avx512Bf16,
                    false => Self::Avx512,
                };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    /// Most rows of a tile: as many sums as there are registers for.
    pub fn tallest(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 => 12,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
            Self::Plain => 4,
        }
    }

    /// Add a tile `[inputs][height]` times weights `[inputs][PANEL]` to `[height][PANEL]`.
    pub fn multiply(self, tile: &[f32], weights: &[[f32; PANEL]], to: &mut [f32]) {
        self.check(tile.len(), weights.len(), to.len());
        match self {
            // SAFETY: the processor has the instructions (`of_this_processor`), and the slices have the sizes that the
            // kernels read and write (checked above).
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 => unsafe { x86::avx512(tile, weights, to) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(tile, weights, to) },
            Self::Plain => plain(tile, weights, to),
        }
    }

    /// Add a tile `[inputs / 2][height]` times weights `[inputs / 2][PANEL]`, both pairs of bf16, to `[height][PANEL]`.
    pub fn multiply_pairs(self, tile: &[u32], weights: &[[u32; PANEL]], to: &mut [f32]) {
        self.check(tile.len(), weights.len(), to.len());
        match self {
            // SAFETY: as in `multiply`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { x86::avx512bf16(tile, weights, to) },
            _ => unreachable!("who asks has seen `multiplies_pairs`"),
        }
    }

    fn check(self, tile: usize, inputs: usize, sums: usize) {
        let height = sums / PANEL;
        assert!(tile == inputs * height && (1..=self.tallest()).contains(&height), "the tile fits");
    }

    /// A block's weights `[inputs][PANEL]` as f32.
    pub fn widen<B: Block>(self, block: &B, to: &mut [[f32; PANEL]]) {
        match self {
            // SAFETY: the processor has the instructions.
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 => unsafe { x86::widen512(block, to) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::widen256(block, to) },
            Self::Plain => block.widen(to),
        }
    }
}

fn plain(tile: &[f32], weights: &[[f32; PANEL]], to: &mut [f32]) {
    let height = to.len() / PANEL;
    for (column, weights) in tile.chunks_exact(height).zip(weights) {
        for (value, sums) in column.iter().zip(to.chunks_exact_mut(PANEL)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::super::blocks::Block;
    use super::PANEL;

    /// A kernel for each height, so that the sums of a tile stay in registers.
    macro_rules! by_height {
        ($kernel:ident, $height:expr, $arguments:tt, $($known:literal)*) => {
            match $height {
                $($known => $kernel::<$known> $arguments,)*
                _ => unreachable!("a tile has a known height"),
            }
        };
    }

    /// # Safety
    /// The processor has AVX-512F; the slices are `[inputs][height]`, `[inputs][PANEL]` and `[height][PANEL]` with a
    /// height of 1 to 12.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(tile: &[f32], weights: &[[f32; PANEL]], to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { by_height!(tile512, to.len() / PANEL, (tile, weights, to), 1 2 3 4 5 6 7 8 9 10 11 12) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn tile512<const HEIGHT: usize>(tile: &[f32], weights: &[[f32; PANEL]], to: &mut [f32]) {
        let mut sums = [_mm512_setzero_ps(); HEIGHT];
        let mut value = tile.as_ptr();
        // SAFETY: the pointers move over the slices once, in steps of a row of each; the sums are within `to`.
        unsafe {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(to.as_ptr().add(row * PANEL));
            }
            for weights in weights {
                let weight = _mm512_loadu_ps(weights.as_ptr());
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(*value.add(row)), weight, *sum);
                }
                value = value.add(HEIGHT);
            }
            for (row, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(to.as_mut_ptr().add(row * PANEL), *sum);
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512F, BW and BF16; the slices are `[pairs][height]`, `[pairs][PANEL]` and
    /// `[height][PANEL]` with a height of 1 to 12.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn avx512bf16(tile: &[u32], weights: &[[u32; PANEL]], to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { by_height!(pairs512, to.len() / PANEL, (tile, weights, to), 1 2 3 4 5 6 7 8 9 10 11 12) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn pairs512<const HEIGHT: usize>(tile: &[u32], weights: &[[u32; PANEL]], to: &mut [f32]) {
        let mut sums = [_mm512_setzero_ps(); HEIGHT];
        let mut pair = tile.as_ptr();
        // SAFETY: as in `tile512`; the registers of pairs are their bits.
        unsafe {
            let bits = |bits: __m512i| std::mem::transmute::<__m512i, __m512bh>(bits);
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(to.as_ptr().add(row * PANEL));
            }
            for weights in weights {
                let weight = bits(_mm512_loadu_si512(weights.as_ptr().cast()));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = bits(_mm512_set1_epi32((*pair.add(row)).cast_signed()));
                    *sum = _mm512_dpbf16_ps(*sum, value, weight);
                }
                pair = pair.add(HEIGHT);
            }
            for (row, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(to.as_mut_ptr().add(row * PANEL), *sum);
            }
        }
    }

    /// # Safety
    /// The processor has AVX2 and FMA; the slices are as for [`avx512`] with a height of 1 to 6.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(tile: &[f32], weights: &[[f32; PANEL]], to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { by_height!(tile256, to.len() / PANEL, (tile, weights, to), 1 2 3 4 5 6) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile256<const HEIGHT: usize>(tile: &[f32], weights: &[[f32; PANEL]], to: &mut [f32]) {
        let mut sums = [[_mm256_setzero_ps(); 2]; HEIGHT];
        let mut value = tile.as_ptr();
        // SAFETY: as in `tile512`.
        unsafe {
            for (row, sum) in sums.iter_mut().enumerate() {
                sum[0] = _mm256_loadu_ps(to.as_ptr().add(row * PANEL));
                sum[1] = _mm256_loadu_ps(to.as_ptr().add(row * PANEL + 8));
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
                _mm256_storeu_ps(to.as_mut_ptr().add(row * PANEL), sum[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(row * PANEL + 8), sum[1]);
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
}
