//! Weights of GGUF's block formats: some inputs of the 16 outputs of a panel. The numbers are those of the files, the
//! order is such that the 16 outputs of an input lie side by side.

#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::PANEL;
use super::blocks::Block;

/// A number per output.
type Lanes<T> = [T; PANEL];

fn wide(bits: &Lanes<u16>) -> Lanes<f32> {
    let mut wide = [0.0; PANEL];
    bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut wide);
    wide
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// 32 inputs: weight = scale * q.
#[derive(Clone, Copy)]
pub(super) struct Q8_0 {
    /// f16
    scales: Lanes<u16>,
    /// `[inputs]`
    q: [Lanes<i8>; 32],
}

impl Block for Q8_0 {
    const INPUTS: usize = 32;
    const BYTES: usize = 34;
    const ZERO: Self = Self { scales: [0; PANEL], q: [[0; PANEL]; 32] };

    fn set(&mut self, lane: usize, bytes: &[u8]) {
        self.scales[lane] = u16_at(bytes, 0);
        for (q, byte) in self.q.iter_mut().zip(&bytes[2..]) {
            q[lane] = byte.cast_signed();
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn widen512(&self, to: &mut [[f32; PANEL]]) {
        // SAFETY: the caller's promise.
        unsafe { x86::q8_0(self, to) }
    }

    #[inline(always)]
    fn widen(&self, to: &mut [[f32; PANEL]]) {
        let scales = wide(&self.scales);
        for (q, to) in self.q.iter().zip(to) {
            for lane in 0..PANEL {
                to[lane] = scales[lane] * f32::from(q[lane]);
            }
        }
    }
}

/// 256 inputs in 8 groups of 32: weight = d * scale * q - dmin * minimum.
#[derive(Clone, Copy)]
pub(super) struct Q4K {
    /// f16
    d: Lanes<u16>,
    /// f16
    dmin: Lanes<u16>,
    /// `[groups]`
    scales: [Lanes<u8>; 8],
    /// `[groups]`
    minima: [Lanes<u8>; 8],
    /// `[groups / 2][32]`: an input of an even group in the lower half, of the odd one behind it in the upper.
    q: [[Lanes<u8>; 32]; 4],
}

impl Block for Q4K {
    const INPUTS: usize = 256;
    const BYTES: usize = 144;
    const ZERO: Self = Self {
        d: [0; PANEL],
        dmin: [0; PANEL],
        scales: [[0; PANEL]; 8],
        minima: [[0; PANEL]; 8],
        q: [[[0; PANEL]; 32]; 4],
    };

    fn set(&mut self, lane: usize, bytes: &[u8]) {
        self.d[lane] = u16_at(bytes, 0);
        self.dmin[lane] = u16_at(bytes, 2);
        // Numbers of 6 bits: those of the first four groups in the lower bits of eight bytes, those of the others in
        // four more bytes and the two bits that were left.
        let packed = &bytes[4..16];
        for group in 0..8 {
            let (scale, minimum) = if group < 4 {
                (packed[group] & 63, packed[group + 4] & 63)
            } else {
                let low = packed[group + 4];
                (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
            };
            self.scales[group][lane] = scale;
            self.minima[group][lane] = minimum;
        }
        for (q, byte) in self.q.as_flattened_mut().iter_mut().zip(&bytes[16..]) {
            q[lane] = *byte;
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn widen512(&self, to: &mut [[f32; PANEL]]) {
        // SAFETY: the caller's promise.
        unsafe { x86::q4k(self, to) }
    }

    #[inline(always)]
    fn widen(&self, to: &mut [[f32; PANEL]]) {
        let (d, dmin) = (wide(&self.d), wide(&self.dmin));
        let times = |a: &Lanes<f32>, b: &Lanes<u8>| -> Lanes<f32> {
            std::array::from_fn(|lane| a[lane] * f32::from(b[lane]))
        };
        for (pair, (q, to)) in self.q.iter().zip(to.chunks_exact_mut(64)).enumerate() {
            let scales = [times(&d, &self.scales[2 * pair]), times(&d, &self.scales[2 * pair + 1])];
            let minima = [times(&dmin, &self.minima[2 * pair]), times(&dmin, &self.minima[2 * pair + 1])];
            // One loop for each half: the compiler makes vectors of either, but not of both in one.
            let (even, odd) = to.split_at_mut(32);
            for (q, to) in q.iter().zip(even) {
                for lane in 0..PANEL {
                    to[lane] = scales[0][lane] * f32::from(u16::from(q[lane]) & 15) - minima[0][lane];
                }
            }
            for (q, to) in q.iter().zip(odd) {
                for lane in 0..PANEL {
                    to[lane] = scales[1][lane] * f32::from(u16::from(q[lane]) >> 4) - minima[1][lane];
                }
            }
        }
    }
}

/// 256 inputs in 16 groups of 16: weight = d * scale * (q - 32).
#[derive(Clone, Copy)]
pub(super) struct Q6K {
    /// f16
    d: Lanes<u16>,
    /// `[groups]`
    scales: [Lanes<i8>; 16],
    /// `[halves][64]`: four bits each of the inputs i and i + 64 of a half.
    low: [[Lanes<u8>; 64]; 2],
    /// `[halves][32]`: two bits each of the inputs i, i + 32, i + 64 and i + 96 of a half.
    high: [[Lanes<u8>; 32]; 2],
}

impl Block for Q6K {
    const INPUTS: usize = 256;
    const BYTES: usize = 210;
    const ZERO: Self = Self {
        d: [0; PANEL],
        scales: [[0; PANEL]; 16],
        low: [[[0; PANEL]; 64]; 2],
        high: [[[0; PANEL]; 32]; 2],
    };

    fn set(&mut self, lane: usize, bytes: &[u8]) {
        for (low, byte) in self.low.as_flattened_mut().iter_mut().zip(&bytes[..128]) {
            low[lane] = *byte;
        }
        for (high, byte) in self.high.as_flattened_mut().iter_mut().zip(&bytes[128..192]) {
            high[lane] = *byte;
        }
        for (scale, byte) in self.scales.iter_mut().zip(&bytes[192..208]) {
            scale[lane] = byte.cast_signed();
        }
        self.d[lane] = u16_at(bytes, 208);
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn widen512(&self, to: &mut [[f32; PANEL]]) {
        // SAFETY: the caller's promise.
        unsafe { x86::q6k(self, to) }
    }

    #[inline(always)]
    fn widen(&self, to: &mut [[f32; PANEL]]) {
        let d = wide(&self.d);
        for (half, to) in to.chunks_exact_mut(128).enumerate() {
            // Each quarter of a half takes its own bits of the same bytes.
            for (quarter, to) in to.chunks_exact_mut(32).enumerate() {
                let (first, low_bits, high_bits) = (quarter % 2 * 32, quarter / 2 * 4, quarter * 2);
                for (part, to) in to.chunks_exact_mut(16).enumerate() {
                    let scale = &self.scales[half * 8 + quarter * 2 + part];
                    let scale: Lanes<f32> = std::array::from_fn(|lane| d[lane] * f32::from(scale[lane]));
                    let low = &self.low[half][first + part * 16..][..16];
                    let high = &self.high[half][part * 16..][..16];
                    for ((low, high), to) in low.iter().zip(high).zip(to) {
                        for lane in 0..PANEL {
                            let (low, high) = (u16::from(low[lane]), u16::from(high[lane]));
                            let q = low >> low_bits & 15 | (high >> high_bits & 3) << 4;
                            to[lane] = scale[lane] * (f32::from(q) - 32.0);
                        }
                    }
                }
            }
        }
    }
}
