//! Weights of 16 bits: some inputs of the 16 outputs of a panel.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::PANEL;

/// Inputs of a block of 16-bit weights.
const INPUTS: usize = 32;

/// Some inputs of a panel's 16 outputs.
pub(super) trait Block: Copy + Send + Sync {
    /// Inputs of a block.
    const INPUTS: usize;
    /// Bytes of a block of one output, as a file has it.
    const BYTES: usize;
    /// All weights 0.
    const ZERO: Self;

    /// Take over the weights of output `lane` from a file's block; a block at a row's end may be shorter.
    fn set(&mut self, lane: usize, bytes: &[u8]);

    /// The weights `[INPUTS][16]` as f32.
    fn widen(&self, to: &mut [[f32; PANEL]]);

    /// The same, by instructions of AVX-512 where they must be named.
    ///
    /// # Safety
    /// The processor has AVX-512F and BW.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn widen512(&self, to: &mut [[f32; PANEL]]) {
        self.widen(to);
    }
}

/// A block that is widened for a unit of bf16.
#[cfg(target_arch = "x86_64")]
pub(super) trait ToPairs: Block {
    /// The weights as pairs of bf16 `[INPUTS / 2][16]`, the first of a pair in the lower half.
    ///
    /// # Safety
    /// The processor has AVX-512F, BW and BF16.
    unsafe fn pairs512(&self, to: &mut [[u32; PANEL]]);
}

/// f16.
#[derive(Clone, Copy)]
pub(super) struct Halves {
    /// `[inputs][16]`
    bits: [[u16; PANEL]; INPUTS],
}

impl Block for Halves {
    const INPUTS: usize = INPUTS;
    const BYTES: usize = 2 * INPUTS;
    const ZERO: Self = Self { bits: [[0; PANEL]; INPUTS] };

    fn set(&mut self, lane: usize, bytes: &[u8]) {
        for (bits, bytes) in self.bits.iter_mut().zip(bytes.chunks_exact(2)) {
            bits[lane] = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
    }

    fn widen(&self, to: &mut [[f32; PANEL]]) {
        self.bits.as_flattened().reinterpret_cast::<f16>().convert_to_f32_slice(to.as_flattened_mut());
    }
}

/// bf16 in pairs of neighbouring inputs, as `vdpbf16ps` multiplies them: the first in the lower half.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    /// `[inputs / 2][16]`
    words: [[u32; PANEL]; INPUTS / 2],
}

impl Pairs {
    /// The pairs of blocks that follow each other, `[pairs][16]`.
    pub fn words(blocks: &[Self]) -> &[[u32; PANEL]] {
        // SAFETY: a block is its array of words and nothing else (`size_of` is checked below).
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), blocks.len() * INPUTS / 2) }
    }
}

const _: () = assert!(size_of::<Pairs>() == size_of::<[[u32; PANEL]; INPUTS / 2]>());

impl Block for Pairs {
    const INPUTS: usize = INPUTS;
    const BYTES: usize = 2 * INPUTS;
    const ZERO: Self = Self { words: [[0; PANEL]; INPUTS / 2] };

    fn set(&mut self, lane: usize, bytes: &[u8]) {
        for (words, bytes) in self.words.iter_mut().zip(bytes.chunks(4)) {
            let mut pair = [0; 4];
            pair[..bytes.len()].copy_from_slice(bytes);
            words[lane] = u32::from_le_bytes(pair);
        }
    }

    #[inline(always)]
    fn widen(&self, to: &mut [[f32; PANEL]]) {
        for (words, to) in self.words.iter().zip(to.chunks_exact_mut(2)) {
            for (lane, word) in words.iter().enumerate() {
                to[0][lane] = f32::from_bits(word << 16);
                to[1][lane] = f32::from_bits(word & 0xffff_0000);
            }
        }
    }
}
