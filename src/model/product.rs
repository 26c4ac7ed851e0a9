//! Products of packed rows and a weight matrix, in f32 on the CPU.
//!
//! A row's result must not depend, to the bit, on which rows share its pass. General matrix kernels choose how to cut a
//! product, and with that how they round, by its size and by the processor's caches. Here every output is one chain of fused
//! multiply-adds over the inputs in their order, whatever the number of rows and wherever a row lies among them: tiles
//! only decide which chains run side by side.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// Outputs of a panel: what one AVX-512 register holds.
const PANEL: usize = 16;
/// Products of fewer multiplications run on the calling thread: waking another costs more than it saves.
const WORTH_SHARING: usize = 1 << 20;

/// A weight matrix, transposed and cut into panels of [`PANEL`] outputs.
pub struct Packed {
    inputs: usize,
    outputs: usize,
    /// `[panels][inputs][PANEL]`; what is missing to the last panel is 0.
    panels: Vec<f32>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed [{}, {}]", self.outputs, self.inputs)
    }
}

impl Packed {
    /// From a weight `[outputs, inputs]`.
    ///
    /// # Errors
    /// It is no f32 matrix on the CPU.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.to_dtype(DType::F32)?.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { bail!("the weight is not on the CPU") };
        let values = elements(storage, layout)?;
        let mut panels = vec![0.0; outputs.div_ceil(PANEL) * inputs * PANEL];
        for (output, row) in values.chunks_exact(inputs).enumerate() {
            let panel = &mut panels[output / PANEL * inputs * PANEL..][..inputs * PANEL];
            for (value, to) in row.iter().zip(panel[output % PANEL..].iter_mut().step_by(PANEL)) {
                *to = *value;
            }
        }
        Ok(Self { inputs, outputs, panels })
    }

    /// x `[rows, inputs]` times the transposed weight: `[rows, outputs]`.
    ///
    /// # Errors
    /// x is no f32 matrix of that width on the CPU.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(&Product(self))
    }

    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let kernel = Kernel::of_this_processor();
        let tiles = Tiles::new(x, self.inputs, kernel.tallest());
        let count = self.outputs.div_ceil(PANEL);
        // [panels][rows][PANEL]
        let mut found = vec![0.0; count * rows * PANEL];
        let panels = self.panels.par_chunks_exact(self.inputs * PANEL);
        let one = |(to, panel): (&mut [f32], &[f32])| tiles.multiply(kernel, panel, to);
        if rows * self.inputs * self.outputs < WORTH_SHARING {
            found
                .chunks_exact_mut(rows * PANEL)
                .zip(self.panels.chunks_exact(self.inputs * PANEL))
                .for_each(one);
        } else {
            // A task is a few panels: each passes over all rows while it lies in a core's cache.
            let least = count.div_ceil(8 * rayon::current_num_threads());
            found.par_chunks_exact_mut(rows * PANEL).zip(panels).with_min_len(least).for_each(one);
        }
        let mut y = Vec::with_capacity(rows * self.outputs);
        for row in 0..rows {
            for panel in 0..count {
                let width = PANEL.min(self.outputs - panel * PANEL);
                y.extend_from_slice(&found[(panel * rows + row) * PANEL..][..width]);
            }
        }
        y
    }
}

struct Product<'a>(&'a Packed);

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        if inputs != self.0.inputs {
            bail!("rows of {inputs} values times a weight of {} columns", self.0.inputs);
        }
        let y = if rows == 0 { Vec::new() } else { self.0.multiply(elements(x, layout)?) };
        Ok((CpuStorage::F32(y), (rows, self.0.outputs).into()))
    }
}

fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("the matrix is not contiguous"),
    }
}

/// Rows in groups that one kernel call works on, each group transposed: rows that lie a power of two apart would
/// otherwise meet in the same few lines of the cache.
struct Tiles {
    inputs: usize,
    tallest: usize,
    rows: usize,
    /// `[tiles][inputs][rows of the tile]`; the last tile may have fewer rows.
    values: Vec<f32>,
}

impl Tiles {
    fn new(x: &[f32], inputs: usize, tallest: usize) -> Self {
        let mut values = vec![0.0; x.len()];
        for (tile, rows) in values.chunks_mut(tallest * inputs).zip(x.chunks(tallest * inputs)) {
            let height = rows.len() / inputs;
            for (row, from) in rows.chunks_exact(inputs).enumerate() {
                for (value, to) in from.iter().zip(tile[row..].iter_mut().step_by(height)) {
                    *to = *value;
                }
            }
        }
        Self { inputs, tallest, rows: x.len() / inputs, values }
    }

    /// All rows times one panel `[inputs][PANEL]`, into `[rows][PANEL]`.
    fn multiply(&self, kernel: Kernel, panel: &[f32], to: &mut [f32]) {
        assert!(panel.len() == self.inputs * PANEL && to.len() == self.rows * PANEL, "sizes fit");
        let tiles = self.values.chunks(self.tallest * self.inputs);
        for (tile, to) in tiles.zip(to.chunks_mut(self.tallest * PANEL)) {
            kernel.multiply(tile, panel, to);
        }
    }
}

/// Which instructions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Kernel {
    fn of_this_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    /// Most rows of a tile: as many sums as there are registers for.
    fn tallest(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 12,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
            Self::Plain => 4,
        }
    }

    /// A tile `[inputs][height]` times a panel `[inputs][PANEL]`, into `[height][PANEL]`.
    fn multiply(self, tile: &[f32], panel: &[f32], to: &mut [f32]) {
        let (inputs, height) = (panel.len() / PANEL, to.len() / PANEL);
        assert!(tile.len() == inputs * height && (1..=self.tallest()).contains(&height), "the tile fits");
        match self {
            // SAFETY: the processor has the instructions (`of_this_processor`), and the slices have the sizes that the
            // kernels read and write (checked above).
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::avx512(tile, panel, to) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(tile, panel, to) },
            Self::Plain => plain(tile, panel, to),
        }
    }
}

fn plain(tile: &[f32], panel: &[f32], to: &mut [f32]) {
    let height = to.len() / PANEL;
    to.fill(0.0);
    for (column, weights) in tile.chunks_exact(height).zip(panel.chunks_exact(PANEL)) {
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
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

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
    pub unsafe fn avx512(tile: &[f32], panel: &[f32], to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { by_height!(tile512, to.len() / PANEL, (tile, panel, to), 1 2 3 4 5 6 7 8 9 10 11 12) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn tile512<const HEIGHT: usize>(tile: &[f32], panel: &[f32], to: &mut [f32]) {
        let mut sums = [_mm512_setzero_ps(); HEIGHT];
        let (mut value, mut weights) = (tile.as_ptr(), panel.as_ptr());
        // SAFETY: the pointers move over the slices once, in steps of a row of each; the stores are within `to`.
        unsafe {
            for _ in 0..panel.len() / PANEL {
                let weight = _mm512_loadu_ps(weights);
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(*value.add(row)), weight, *sum);
                }
                value = value.add(HEIGHT);
                weights = weights.add(PANEL);
            }
            for (row, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(to.as_mut_ptr().add(row * PANEL), *sum);
            }
        }
    }

    /// # Safety
    /// The processor has AVX2 and FMA; the slices are as for [`avx512`] with a height of 1 to 6.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(tile: &[f32], panel: &[f32], to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { by_height!(tile256, to.len() / PANEL, (tile, panel, to), 1 2 3 4 5 6) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile256<const HEIGHT: usize>(tile: &[f32], panel: &[f32], to: &mut [f32]) {
        let mut sums = [[_mm256_setzero_ps(); 2]; HEIGHT];
        let (mut value, mut weights) = (tile.as_ptr(), panel.as_ptr());
        // SAFETY: as in `tile512`.
        unsafe {
            for _ in 0..panel.len() / PANEL {
                let weight = [_mm256_loadu_ps(weights), _mm256_loadu_ps(weights.add(8))];
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = _mm256_set1_ps(*value.add(row));
                    sum[0] = _mm256_fmadd_ps(value, weight[0], sum[0]);
                    sum[1] = _mm256_fmadd_ps(value, weight[1], sum[1]);
                }
                value = value.add(HEIGHT);
                weights = weights.add(PANEL);
            }
            for (row, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(to.as_mut_ptr().add(row * PANEL), sum[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(row * PANEL + 8), sum[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, count: usize) -> Vec<f32> {
        let key = crate::rng::key(&[seed]);
        (0..count as u64).map(|i| crate::rng::uniform(key, i) as f32 - 0.5).collect()
    }

    fn kernels() -> Vec<Kernel> {
        let mut all = vec![Kernel::Plain];
        #[cfg(target_arch = "x86_64")]
        match Kernel::of_this_processor() {
            Kernel::Avx512 => all.extend([Kernel::Avx2, Kernel::Avx512]),
            Kernel::Avx2 => all.push(Kernel::Avx2),
            Kernel::Plain => {}
        }
        all
    }

    #[test]
    fn every_kernel_gives_the_product_at_every_height() {
        for kernel in kernels() {
            for (height, inputs) in (1..=kernel.tallest()).zip([1, 2, 3, 17, 64, 100].into_iter().cycle()) {
                let (tile, panel) = (values(1, inputs * height), values(2, inputs * PANEL));
                let mut found = vec![9.0; height * PANEL];
                kernel.multiply(&tile, &panel, &mut found);
                for (at, found) in found.iter().enumerate() {
                    let (row, output) = (at / PANEL, at % PANEL);
                    let term =
                        |i: usize| f64::from(tile[i * height + row]) * f64::from(panel[i * PANEL + output]);
                    let exact: f64 = (0..inputs).map(term).sum();
                    assert!(
                        (f64::from(*found) - exact).abs() < 1e-5,
                        "{kernel:?}, {height} rows: {found} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn widths_that_fill_no_panel_and_rows_that_fill_no_tile_are_whole() {
        for (rows, inputs, outputs) in [(1, 5, 3), (13, 16, 17), (30, 33, 40), (29, 7, 1)] {
            let (x, w) = (values(3, rows * inputs), values(4, outputs * inputs));
            let cpu = &candle_core::Device::Cpu;
            let weight = Tensor::from_slice(&w, (outputs, inputs), cpu).unwrap();
            let x = Tensor::from_slice(&x, (rows, inputs), cpu).unwrap();
            let found = Packed::new(&weight).unwrap().product(&x).unwrap();
            let expected = x.matmul(&weight.t().unwrap()).unwrap();
            let error = (found - expected).unwrap().abs().unwrap().max_all().unwrap();
            assert!(error.to_scalar::<f32>().unwrap() < 1e-5, "{rows} {inputs} {outputs}");
        }
    }
}
