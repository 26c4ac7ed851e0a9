//! Products of bf16 by the tile unit of newer Intel processors (AMX): 16 rows times 16 outputs over 32 inputs in one
//! instruction. The compiler offers no stable functions for it, so the loop is in assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m256bh, __m256i, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_loadu_ps,
    _mm512_or_si512, _mm512_slli_epi32, _mm512_storeu_si512,
};
use std::sync::LazyLock;

use half::bf16;

use super::PANEL;

/// Rows of a tile.
const ROWS: usize = 16;
/// Inputs of a tile.
const INPUTS: usize = 32;
/// Tiles of rows that share a tile of weights: as many sums as there are registers for.
const TALLEST: usize = 4;
/// Bytes of a tile.
const TILE: usize = 1024;

/// Whether the processor has the unit and the system lets this process use it.
pub(super) fn is_there() -> bool {
    static THERE: LazyLock<bool> = LazyLock::new(|| {
        // CPUID leaf 7, EDX: bit 22 is AMX-BF16, bit 24 AMX-TILE.
        const NEEDED: u32 = 1 << 22 | 1 << 24;
        __cpuid_count(7, 0).edx & NEEDED == NEEDED && permitted()
    });
    *THERE
}

/// Linux gives a process the memory for tiles only when it asks.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers and changes nothing but what the process may do.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Rows in the order in which the unit takes them.
pub(super) struct RowTiles {
    rows: usize,
    /// Inputs of a row in tiles.
    depth: usize,
    /// `[groups of up to TALLEST tiles][inputs / 32][tiles of the group][16 rows][32 inputs]`; rows that are missing to
    /// the last tile are 0.
    values: Vec<bf16>,
}

impl RowTiles {
    /// From x `[rows, inputs]`, filled up with zeros to `width` values a row.
    pub fn new(x: &[f32], inputs: usize, width: usize) -> Self {
        let (rows, depth) = (x.len() / inputs, width / INPUTS);
        let tiles = rows.div_ceil(ROWS);
        let mut values = vec![bf16::ZERO; tiles * depth * ROWS * INPUTS];
        for (row, from) in x.chunks_exact(inputs).enumerate() {
            let (tile, lane) = (row / ROWS, row % ROWS);
            let group = tile / TALLEST * TALLEST;
            let height = TALLEST.min(tiles - group);
            for (deep, from) in from.chunks(INPUTS).enumerate() {
                let at = group * depth + deep * height + tile - group;
                let to = &mut values[(at * ROWS + lane) * INPUTS..][..from.len()];
                for (to, value) in to.iter_mut().zip(from) {
                    *to = bf16::from_f32(*value);
                }
            }
        }
        Self { rows, depth, values }
    }

    /// All rows times a panel's weights `[inputs / 2][PANEL]` in pairs, into `[rows][PANEL]`.
    ///
    /// # Panics
    /// The sizes do not fit.
    pub fn multiply(&self, weights: &[[u32; PANEL]], to: &mut [f32]) {
        assert!(is_there(), "who has tiles has asked");
        assert!(
            weights.len() == self.depth * INPUTS / 2 && to.len() == self.rows * PANEL,
            "the panel fits the rows"
        );
        let mut sums = [[[0.0_f32; PANEL]; ROWS]; TALLEST];
        let of_group = TALLEST * self.depth * ROWS * INPUTS;
        // SAFETY: the unit is there.
        unsafe { configure() };
        for (rows, to) in self.values.chunks(of_group).zip(to.chunks_mut(TALLEST * ROWS * PANEL)) {
            let height = rows.len() / (self.depth * ROWS * INPUTS);
            let (rows, weights, sums_at) =
                (rows.as_ptr().cast(), weights.as_ptr().cast(), sums.as_mut_ptr().cast());
            // SAFETY: tiles are configured; per step of the depth the loop reads a tile of weights and `height` tiles of
            // rows, which is all of both slices, and writes `height` tiles of sums.
            unsafe {
                match height {
                    1 => group1(rows, weights, self.depth, sums_at),
                    2 => group2(rows, weights, self.depth, sums_at),
                    3 => group3(rows, weights, self.depth, sums_at),
                    _ => group4(rows, weights, self.depth, sums_at),
                }
            }
            to.copy_from_slice(&sums.as_flattened().as_flattened()[..to.len()]);
        }
        // SAFETY: the unit is there. A thread without tiles is cheaper to switch.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Weights `[inputs][PANEL]` rounded to bf16, in pairs `[inputs / 2][PANEL]`.
///
/// # Panics
/// The sizes do not fit, or the unit is not there.
pub(super) fn pairs(weights: &[[f32; PANEL]], to: &mut [[u32; PANEL]]) {
    assert!(is_there() && weights.len() == 2 * to.len(), "who has tiles has asked, and sizes fit");
    // SAFETY: processors with the unit have AVX-512 with bf16 (`Kernel::of_this_processor` asks for both).
    unsafe { pairs512(weights, to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs512(weights: &[[f32; PANEL]], to: &mut [[u32; PANEL]]) {
    for (pair, to) in weights.chunks_exact(2).zip(to) {
        // SAFETY: the loads and the store are of sixteen numbers; a register of bf16 is its bits.
        unsafe {
            let bits = |lanes: &[f32; PANEL]| {
                let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(lanes.as_ptr()));
                _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded))
            };
            let words = _mm512_or_si512(bits(&pair[0]), _mm512_slli_epi32::<16>(bits(&pair[1])));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), words);
        }
    }
}

/// Every tile register: 16 rows of 64 bytes.
///
/// # Safety
/// The unit is there.
unsafe fn configure() {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_of_row: [u16; 16],
        rows: [u8; 16],
    }
    let (mut bytes_of_row, mut rows) = ([0; 16], [0; 16]);
    bytes_of_row[..8].fill(64);
    rows[..8].fill(16);
    let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_row, rows };
    // SAFETY: the instruction reads the 64 bytes of the configuration.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
}

/// A loop over the depth with so many tiles of rows, whose sums are tmm0 and so on; tmm4 holds weights, tmm5 rows.
macro_rules! group {
    ($name:ident, $bytes:literal, $zero:literal, $step:literal, $store:literal) => {
        /// # Safety
        /// Tiles are configured, and the memory is as large as the loop reads and writes.
        unsafe fn $name(rows: *const u8, weights: *const u8, depth: usize, sums: *mut u8) {
            // SAFETY: the caller's promise. No register but those named is touched, nor the stack.
            unsafe {
                asm!(
                    $zero,
                    "2:",
                    "prefetcht0 [{weights} + 8192]",
                    "tileloadd tmm4, [{weights} + {stride}*1]",
                    $step,
                    concat!("add {rows}, ", $bytes),
                    "add {weights}, 1024",
                    "dec {depth}",
                    "jnz 2b",
                    $store,
                    rows = inout(reg) rows => _,
                    weights = inout(reg) weights => _,
                    depth = inout(reg) depth => _,
                    sums = in(reg) sums,
                    stride = in(reg) 64_usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                    options(nostack)
                );
            }
        }
    };
}

group!(
    group1,
    "1024",
    "tilezero tmm0",
    "tileloadd tmm5, [{rows} + {stride}*1]\n tdpbf16ps tmm0, tmm5, tmm4",
    "tilestored [{sums} + {stride}*1], tmm0"
);
group!(
    group2,
    "2048",
    "tilezero tmm0\n tilezero tmm1",
    "tileloadd tmm5, [{rows} + {stride}*1]\n tdpbf16ps tmm0, tmm5, tmm4
     tileloadd tmm5, [{rows} + {stride}*1 + 1024]\n tdpbf16ps tmm1, tmm5, tmm4",
    "tilestored [{sums} + {stride}*1], tmm0\n tilestored [{sums} + {stride}*1 + 1024], tmm1"
);
group!(
    group3,
    "3072",
    "tilezero tmm0\n tilezero tmm1\n tilezero tmm2",
    "tileloadd tmm5, [{rows} + {stride}*1]\n tdpbf16ps tmm0, tmm5, tmm4
     tileloadd tmm5, [{rows} + {stride}*1 + 1024]\n tdpbf16ps tmm1, tmm5, tmm4
     tileloadd tmm5, [{rows} + {stride}*1 + 2048]\n tdpbf16ps tmm2, tmm5, tmm4",
    "tilestored [{sums} + {stride}*1], tmm0\n tilestored [{sums} + {stride}*1 + 1024], tmm1
     tilestored [{sums} + {stride}*1 + 2048], tmm2"
);
group!(
    group4,
    "4096",
    "tilezero tmm0\n tilezero tmm1\n tilezero tmm2\n tilezero tmm3",
    "tileloadd tmm5, [{rows} + {stride}*1]\n tdpbf16ps tmm0, tmm5, tmm4
     tileloadd tmm5, [{rows} + {stride}*1 + 1024]\n tdpbf16ps tmm1, tmm5, tmm4
     tileloadd tmm5, [{rows} + {stride}*1 + 2048]\n tdpbf16ps tmm2, tmm5, tmm4
     tileloadd tmm5, [{rows} + {stride}*1 + 3072]\n tdpbf16ps tmm3, tmm5, tmm4",
    "tilestored [{sums} + {stride}*1], tmm0\n tilestored [{sums} + {stride}*1 + 1024], tmm1
     tilestored [{sums} + {stride}*1 + 2048], tmm2\n tilestored [{sums} + {stride}*1 + 3072], tmm3"
);

const _: () = assert!(ROWS * INPUTS * size_of::<bf16>() == TILE && ROWS * PANEL * size_of::<f32>() == TILE);
