//! The innermost loops, by what instructions there are.

use super::PANEL;
use super::blocks::Block;
use super::columns::Columns;

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

    /// Rows of a tile where all tiles are to have as many, and two panels' sums still have registers.
    pub fn short_tile(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 => 8,
            _ => 4,
        }
    }

    /// A tile `[inputs][height]` times the weights `[inputs][PANEL]` of one or two panels, into that many panels' columns
    /// `[height]`; `onto` what is there, or instead of it.
    pub fn multiply(self, tile: &[f32], weights: &[&[[f32; PANEL]]], to: Columns, onto: bool) {
        self.check(tile.len(), weights.iter().map(|weights| weights.len()), &to);
        match self {
            // SAFETY: the processor has the instructions (`of_this_processor`), and the slices have the sizes that the
            // kernels read and write (checked above).
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 => unsafe { x86::avx512(tile, weights, to, onto) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(tile, weights, to, onto) },
            // SAFETY: as above, but for instructions.
            Self::Plain => unsafe { plain(tile, weights, to, onto) },
        }
    }

    /// The same of pairs of bf16: a tile `[inputs / 2][height]` times weights `[inputs / 2][PANEL]`.
    pub fn multiply_pairs(self, tile: &[u32], weights: &[&[[u32; PANEL]]], to: Columns, onto: bool) {
        self.check(tile.len(), weights.iter().map(|weights| weights.len()), &to);
        match self {
            // SAFETY: as in `multiply`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { x86::avx512bf16(tile, weights, to, onto) },
            _ => unreachable!("who asks has seen `multiplies_pairs`"),
        }
    }

    fn check(self, tile: usize, inputs: impl ExactSizeIterator<Item = usize>, to: &Columns) {
        let height = to.height();
        assert!((1..=self.tallest()).contains(&height), "the tile has a known height");
        assert!(
            inputs.len() == to.panels() && (1..=2).contains(&inputs.len()),
            "weights are of one panel or two"
        );
        for inputs in inputs {
            assert!(tile == inputs * height, "the tile fits the weights");
        }
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

/// # Safety
/// The sizes fit (`Kernel::check`).
unsafe fn plain(tile: &[f32], weights: &[&[[f32; PANEL]]], mut to: Columns, onto: bool) {
    let height = to.height();
    for (panel, weights) in weights.iter().enumerate() {
        for row in 0..height {
            // SAFETY: the panel's columns of the row are within `to`.
            let sums = unsafe { to.first().add(row * to.stride() + panel * PANEL) }.cast::<[f32; PANEL]>();
            // SAFETY: as above; without `onto` they may not be read.
            let mut sum = if onto { unsafe { *sums } } else { [0.0; PANEL] };
            for (value, weights) in tile[row..].iter().step_by(height).zip(*weights) {
                for (sum, weight) in sum.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
            // SAFETY: as above.
            unsafe { *sums = sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;
