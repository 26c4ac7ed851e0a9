//! Products of bf16 by the tile unit of newer Intel processors (AMX): 16 rows times 16 outputs over 32 inputs in one
//! instruction. The compiler offers no stable functions for it, so the loop is in assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m256bh, __m256i, _mm256_storeu_si256, _mm512_cvtneps_pbh, _mm512_loadu_ps,
};
use std::sync::LazyLock;

use half::bf16;
use rayon::prelude::*;

use super::blocks::ToPairs;
use super::columns::Columns;
use super::{PANEL, Part, VALUES_WORTH_SHARING};

/// Rows of a tile.
const ROWS: usize = 16;
/// Inputs of a tile.
const INPUTS: usize = 32;
/// Tiles of rows that share the tiles of weights of two panels. Two by two need the fewest loads of all shapes that there
/// are registers for: each tile that is loaded is multiplied twice.
const TALLEST: usize = 2;
/// Bytes of a tile.
const TILE: usize = 1024;
/// Bytes of rows in a part: beside the weights of two panels, what a second cache of 2 MiB holds.
const BLOCK: usize = 1 << 20;
/// Tiles of inputs in a part: fewer would write and read back sums too often.
const DEEPEST: usize = 128;
/// Tiles that are rounded at a time.
const SHARED: usize = 32;
/// Bytes that rows and weights are fetched ahead.
const AHEAD: usize = 4096;

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

/// 16 rows of 32 inputs.
type Tile = [[bf16; INPUTS]; ROWS];

/// Rows in the order in which the unit takes them.
pub(super) struct RowTiles {
    /// Tiles of 16 rows.
    tiles: usize,
    /// Inputs of a row in tiles.
    depth: usize,
    /// `[groups of up to TALLEST tiles][inputs / 32][tiles of the group]`; rows that are missing to the last tile are 0.
    values: Vec<Tile>,
}

impl RowTiles {
    /// From x `[rows, inputs]`, filled up with zeros to `width` values a row.
    pub fn new(x: &[f32], inputs: usize, width: usize) -> Self {
        let (tiles, depth) = ((x.len() / inputs).div_ceil(ROWS), width / INPUTS);
        assert!(is_there(), "who wants tiles has asked");
        let tile = |at: usize| {
            let group = at / (TALLEST * depth) * TALLEST;
            let height = TALLEST.min(tiles - group);
            let (deep, beside) = ((at - group * depth) / height, (at - group * depth) % height);
            // SAFETY: who has the unit has AVX-512 with bf16 (`Kernel::of_this_processor` asks for both).
            unsafe { rounded(&x[(group + beside) * ROWS * inputs..], inputs, deep * INPUTS) }
        };
        let values = if x.len() < VALUES_WORTH_SHARING {
            (0..tiles * depth).map(tile).collect()
        } else {
            (0..tiles * depth).into_par_iter().with_min_len(SHARED).map(tile).collect()
        };
        Self { tiles, depth, values }
    }

    /// Inputs and rows that are best worked on together: what of the rows stays in a core's second cache while panels
    /// pass by.
    pub fn parts(&self) -> Vec<Part> {
        let groups = (BLOCK / (DEEPEST.min(self.depth) * TALLEST * TILE)).max(1);
        let mut parts = Vec::new();
        for start in (0..self.depth).step_by(DEEPEST) {
            for first in (0..self.tiles).step_by(groups * TALLEST) {
                let rows = first * ROWS..(first + groups * TALLEST).min(self.tiles) * ROWS;
                parts.push(Part { inputs: start * INPUTS..(start + DEEPEST).min(self.depth) * INPUTS, rows });
            }
        }
        parts
    }

    /// Some inputs of some rows times the weights `[inputs / 2][PANEL]`, in pairs, of one or two panels, into those panels'
    /// columns of all rows; the first inputs' instead of what is there, the others' onto it.
    ///
    /// # Panics
    /// The sizes do not fit.
    pub fn multiply(&self, part: &Part, weights: &[&[[u32; PANEL]]], mut to: Columns) {
        let Part { inputs, rows } = part;
        assert!(is_there(), "who has tiles has asked");
        assert!(
            weights.len() == to.panels() && weights.iter().all(|w| w.len() * 2 == inputs.len()),
            "weights are of one panel or two, and of these inputs"
        );
        assert!(
            !inputs.is_empty()
                && [inputs.start, inputs.end].iter().all(|input| input.is_multiple_of(INPUTS))
                && inputs.end <= self.depth * INPUTS
                && rows.start.is_multiple_of(TALLEST * ROWS)
                && rows.end <= self.tiles * ROWS
                && to.height() == self.tiles * ROWS,
            "the part is of whole tiles of these rows"
        );
        // SAFETY: the unit is there.
        unsafe { configure() };
        for first in rows.clone().step_by(TALLEST * ROWS) {
            let height = TALLEST.min(self.tiles - first / ROWS);
            let group = &self.values[first / ROWS * self.depth..][..height * self.depth];
            let mut to = to.rows(first..first + height * ROWS);
            let at: *const u8 = group[inputs.start / INPUTS * height..].as_ptr().cast();
            let weights_at: *const u8 = weights[0].as_ptr().cast();
            let second: *const u8 = weights[weights.len() - 1].as_ptr().cast();
            let step = Step {
                rows: at,
                weights: weights_at,
                second,
                steps: inputs.len() / INPUTS,
                // The first rows meet weights that come from memory; then rows come from the second cache.
                fetched: match (first == rows.start, height) {
                    (true, _) => [weights_at, second],
                    (false, 1) => [at, at],
                    (false, _) => [at, at.wrapping_add(TILE)],
                },
                pace: if first == rows.start { TILE } else { height * TILE },
                stride: to.stride() * size_of::<f32>(),
                to: to.first().cast(),
                onto: inputs.start > 0,
            };
            // SAFETY: tiles are configured; the loop reads so many tiles of each panel's weights and `height` times as many
            // of rows, which all are in the slices (asserted above), and reads and writes the sums of these rows.
            unsafe {
                match (height, weights.len()) {
                    (1, 1) => step.one_by_one(),
                    (1, _) => step.one_by_two(),
                    (_, 1) => step.two_by_one(),
                    _ => step.two_by_two(),
                }
            }
        }
        // SAFETY: the unit is there. A thread without tiles is cheaper to switch.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// A tile of the rows x `[rows, inputs]`: 32 inputs, from `start` on, of the first 16 rows; 0 where there are none.
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(x: &[f32], inputs: usize, start: usize) -> Tile {
    let mut tile = [[bf16::ZERO; INPUTS]; ROWS];
    let end = inputs.min(start + INPUTS);
    for (to, row) in tile.iter_mut().zip(x.chunks_exact(inputs)) {
        let from = &row[start.min(end)..end];
        match <&[f32; INPUTS]>::try_from(from) {
            Ok(from) => round512(from, to),
            Err(_) => std::iter::zip(to, from).for_each(|(to, value)| *to = bf16::from_f32(*value)),
        }
    }
    tile
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn round512(from: &[f32; INPUTS], to: &mut [bf16; INPUTS]) {
    for (from, to) in from.chunks_exact(16).zip(to.chunks_exact_mut(16)) {
        // SAFETY: the load and the store are of sixteen numbers; a register of bf16 is its bits.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr()));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), std::mem::transmute::<__m256bh, __m256i>(rounded));
        }
    }
}

/// A block's weights in pairs of bf16 `[INPUTS / 2][PANEL]`.
///
/// # Panics
/// The unit is not there.
pub(super) fn pairs<B: ToPairs>(block: &B, to: &mut [[u32; PANEL]]) {
    assert!(is_there(), "who has tiles has asked");
    // SAFETY: who has the unit has AVX-512 with bf16 (`Kernel::of_this_processor` asks for both).
    unsafe { block.pairs512(to) }
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

/// One or two tiles of rows times one or two panels, over some tiles of inputs.
struct Step {
    rows: *const u8,
    weights: *const u8,
    /// Of the second panel.
    second: *const u8,
    steps: usize,
    /// Where the two tiles of the first step are of what is fetched into the cache ahead, and the bytes from a step to the next.
    fetched: [*const u8; 2],
    pace: usize,
    /// Bytes from one row of sums to the next.
    stride: usize,
    to: *mut u8,
    onto: bool,
}

/// A row of zeros for two tiles side by side.
static NOTHING: [f32; 2 * PANEL] = [0.0; 2 * PANEL];

/// A tile's 16 lines, for later.
macro_rules! fetch {
    ($at:literal) => {
        concat!(
            ".irp line, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960\n prefetcht0 [{",
            $at,
            "} + \\line]\n .endr\n add {",
            $at,
            "}, {pace}\n"
        )
    };
}

/// The loop. Sums are tmm0 to tmm3, by rows; tmm4 and tmm5 hold rows, tmm6 and tmm7 weights of the panels.
macro_rules! step {
    ($name:ident, $load:expr, $multiply:expr, $bytes:literal, $store:expr) => {
        /// # Safety
        /// Tiles are configured, and the memory is as large as the loop reads and writes.
        unsafe fn $name(&self) {
            // Where sums begin: with what is there, or with one row of zeros for all.
            let (from, from_stride) =
                if self.onto { (self.to.cast_const(), self.stride) } else { (NOTHING.as_ptr().cast(), 0) };
            // SAFETY: the caller's promise. No register but those named is touched, nor the stack.
            unsafe {
                asm!(
                    $load,
                    "mov {line}, 64",
                    "2:",
                    $multiply,
                    concat!("add {rows}, ", $bytes),
                    "add {weights}, 1024",
                    "add {second}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    $store,
                    rows = inout(reg) self.rows => _,
                    weights = inout(reg) self.weights => _,
                    second = inout(reg) self.second => _,
                    steps = inout(reg) self.steps => _,
                    next = inout(reg) self.fetched[0].wrapping_add(AHEAD) => _,
                    beside = inout(reg) self.fetched[1].wrapping_add(AHEAD) => _,
                    pace = in(reg) self.pace,
                    from = inout(reg) from => _,
                    from_stride = in(reg) from_stride,
                    to = inout(reg) self.to => _,
                    stride = in(reg) self.stride,
                    line = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack)
                );
            }
        }
    };
}

/// To the tiles of the next 16 rows of sums.
macro_rules! lower {
    ($at:literal, $stride:literal) => {
        concat!("mov {line}, {", $stride, "}\n shl {line}, 4\n add {", $at, "}, {line}\n")
    };
}

impl Step {
    step!(
        one_by_one,
        "tileloadd tmm0, [{from} + {from_stride}*1]",
        concat!(
            "tileloadd tmm6, [{weights} + {line}*1]\n tileloadd tmm4, [{rows} + {line}*1]
             tdpbf16ps tmm0, tmm4, tmm6 # no second panel: {beside}\n",
            fetch!("next")
        ),
        "1024",
        "tilestored [{to} + {stride}*1], tmm0"
    );
    step!(
        one_by_two,
        "tileloadd tmm0, [{from} + {from_stride}*1]\n tileloadd tmm1, [{from} + {from_stride}*1 + 64]",
        concat!(
            "tileloadd tmm6, [{weights} + {line}*1]\n tileloadd tmm4, [{rows} + {line}*1]
             tdpbf16ps tmm0, tmm4, tmm6\n",
            fetch!("next"),
            "tileloadd tmm7, [{second} + {line}*1]\n tdpbf16ps tmm1, tmm4, tmm7\n",
            fetch!("beside")
        ),
        "1024",
        "tilestored [{to} + {stride}*1], tmm0\n tilestored [{to} + {stride}*1 + 64], tmm1"
    );
    step!(
        two_by_one,
        concat!(
            "tileloadd tmm0, [{from} + {from_stride}*1]\n",
            lower!("from", "from_stride"),
            "tileloadd tmm2, [{from} + {from_stride}*1]"
        ),
        concat!(
            "tileloadd tmm6, [{weights} + {line}*1]\n tileloadd tmm4, [{rows} + {line}*1]
             tdpbf16ps tmm0, tmm4, tmm6\n tileloadd tmm5, [{rows} + {line}*1 + 1024]
             tdpbf16ps tmm2, tmm5, tmm6 # no second panel: {beside}\n",
            fetch!("next")
        ),
        "2048",
        concat!(
            "tilestored [{to} + {stride}*1], tmm0\n",
            lower!("to", "stride"),
            "tilestored [{to} + {stride}*1], tmm2"
        )
    );
    step!(
        two_by_two,
        concat!(
            "tileloadd tmm0, [{from} + {from_stride}*1]\n tileloadd tmm1, [{from} + {from_stride}*1 + 64]\n",
            lower!("from", "from_stride"),
            "tileloadd tmm2, [{from} + {from_stride}*1]\n tileloadd tmm3, [{from} + {from_stride}*1 + 64]"
        ),
        concat!(
            "tileloadd tmm6, [{weights} + {line}*1]\n tileloadd tmm4, [{rows} + {line}*1]
             tdpbf16ps tmm0, tmm4, tmm6\n tileloadd tmm7, [{second} + {line}*1]\n",
            fetch!("next"),
            "tdpbf16ps tmm1, tmm4, tmm7\n tileloadd tmm5, [{rows} + {line}*1 + 1024]
             tdpbf16ps tmm2, tmm5, tmm6\n",
            fetch!("beside"),
            "tdpbf16ps tmm3, tmm5, tmm7"
        ),
        "2048",
        concat!(
            "tilestored [{to} + {stride}*1], tmm0\n tilestored [{to} + {stride}*1 + 64], tmm1\n",
            lower!("to", "stride"),
            "tilestored [{to} + {stride}*1], tmm2\n tilestored [{to} + {stride}*1 + 64], tmm3"
        )
    );
}

const _: () = assert!(size_of::<Tile>() == TILE && ROWS * PANEL * size_of::<f32>() == TILE);
