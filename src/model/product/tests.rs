use candle_core::DType;

use super::panels::Rows;
use super::*;
use crate::model::stored::Bytes;

fn values(seed: u64, count: usize) -> Vec<f32> {
    let key = crate::rng::key(&[seed]);
    (0..count as u64).map(|i| crate::rng::uniform(key, i) as f32 - 0.5).collect()
}

fn kernels() -> Vec<Kernel> {
    let mut all = vec![Kernel::Plain];
    #[cfg(target_arch = "x86_64")]
    {
        let better = [Kernel::Avx2, Kernel::Avx512, Kernel::Avx512Bf16, Kernel::Amx];
        let best = better.iter().position(|kernel| *kernel == Kernel::of_this_processor());
        all.extend(&better[..best.map_or(0, |best| best + 1)]);
    }
    all
}

fn panel(values: &[f32]) -> Vec<[f32; PANEL]> {
    values.chunks_exact(PANEL).map(|lanes| lanes.try_into().unwrap()).collect()
}

/// What a matrix `[rows, outputs]` holds after `write` has been given its columns, `[rows][outputs]`.
fn written(rows: usize, outputs: usize, mut write: impl FnMut(usize, Columns)) -> Vec<f32> {
    let mut output = Output::new(rows, outputs);
    output.columns(PANELS).enumerate().for_each(|(pair, to)| write(pair * PANELS, to));
    // SAFETY: who tests products writes all of them.
    unsafe { output.finish() }
}

#[test]
fn every_kernel_multiplies_at_every_height_and_adds_where_it_should() {
    for kernel in kernels() {
        for (height, inputs) in (1..=kernel.tallest()).zip([1, 2, 3, 17, 64, 100].into_iter().cycle()) {
            for outputs in [PANEL, 2 * PANEL, 3 * PANEL] {
                let tile = values(1, inputs * height);
                let panels: Vec<_> =
                    (0..outputs / PANEL).map(|p| panel(&values(2 + p as u64, inputs * PANEL))).collect();
                let found = written(height, outputs, |first, mut to| {
                    let weights: Vec<_> = panels[first..].iter().take(PANELS).map(Vec::as_slice).collect();
                    kernel.multiply(&tile, &weights, to.rows(0..height), false);
                    kernel.multiply(&tile, &weights, to.rows(0..height), true);
                });
                for (at, found) in found.iter().enumerate() {
                    let (row, output) = (at / outputs, at % outputs);
                    let weights = &panels[output / PANEL];
                    let term =
                        |i: usize| f64::from(tile[i * height + row]) * f64::from(weights[i][output % PANEL]);
                    let exact = 2.0 * (0..inputs).map(term).sum::<f64>();
                    assert!(
                        (f64::from(*found) - exact).abs() < 1e-5,
                        "{kernel:?}, {height} rows: {found} {exact}"
                    );
                }
            }
        }
    }
}

fn matrix(values: &[f32], rows: usize, width: usize) -> Tensor {
    Tensor::from_slice(values, (rows, width), &candle_core::Device::Cpu).unwrap()
}

/// The largest difference, as a part of the largest value.
fn difference(found: &Tensor, expected: &Tensor) -> f32 {
    let largest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest(&(found - expected).unwrap()) / largest(expected)
}

const SHAPES: [(usize, usize, usize); 6] =
    [(1, 5, 3), (13, 16, 17), (30, 33, 40), (29, 7, 1), (26, 600, 35), (70, 1100, 48)];

#[test]
fn widths_that_fill_no_panel_and_rows_that_fill_no_tile_are_whole() {
    for (rows, inputs, outputs) in SHAPES {
        let weight = matrix(&values(4, outputs * inputs), outputs, inputs);
        let x = matrix(&values(3, rows * inputs), rows, inputs);
        let found = Packed::new(&weight).unwrap().product(&x).unwrap();
        let expected = x.matmul(&weight.t().unwrap()).unwrap();
        assert!(difference(&found, &expected) < 1e-5, "{rows} {inputs} {outputs}");
    }
}

/// A weight that is held in some format, and the f32 weight that this stands for.
fn held(format: Format, outputs: usize, inputs: usize) -> (Packed, Tensor) {
    let weight = matrix(&values(4, outputs * inputs), outputs, inputs);
    let packed = Packed::pack(&Stored::of_tensor(&weight).unwrap(), format).unwrap();
    let ones: Vec<f32> =
        (0..inputs * inputs).map(|i| f32::from(u8::from(i / inputs == i % inputs))).collect();
    let weights = packed.product(&matrix(&ones, inputs, inputs)).unwrap().t().unwrap();
    (packed, weights.contiguous().unwrap())
}

const FORMATS: [(Format, f32); 6] = [
    (Format::F32, 0.0),
    (Format::F16, 5e-4),
    (Format::Bf16, 4e-3),
    (Format::Q8_0, 9e-3),
    (Format::Q6K, 4e-2),
    (Format::Q4K, 1.2e-1),
];

#[test]
fn every_format_holds_the_weights_as_well_as_its_bits_can() {
    for (format, bound) in FORMATS {
        for (_, inputs, outputs) in SHAPES {
            let weight = matrix(&values(4, outputs * inputs), outputs, inputs);
            let found = difference(&held(format, outputs, inputs).1, &weight);
            assert!(found <= bound, "{format:?} {inputs} {outputs}: {found}");
        }
    }
}

#[test]
fn products_of_every_format_are_those_of_the_weights_it_stands_for() {
    for (format, _) in FORMATS {
        for (rows, inputs, outputs) in SHAPES {
            let (packed, weights) = held(format, outputs, inputs);
            // Rows that bf16 can hold, because with bf16 weights rows are rounded to it.
            let x = matrix(&values(3, rows * inputs), rows, inputs);
            let x = x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
            let expected = x.matmul(&weights.t().unwrap()).unwrap();
            let found = difference(&packed.product(&x).unwrap(), &expected);
            assert!(found < 1e-5, "{format:?} {rows} {inputs} {outputs}: {found}");
        }
    }
}

#[test]
fn blocks_that_a_file_holds_are_taken_as_they_are() {
    for format in [Format::F16, Format::Bf16, Format::Q8_0, Format::Q4K, Format::Q6K] {
        let (outputs, inputs) = (19, 512);
        let (block, bytes) = format.block();
        let count = outputs * inputs / block * bytes;
        // Any bits, but scales that are numbers: their upper bytes are those of small ones.
        let mut file: Vec<u8> = values(5, count).iter().map(|v| ((v + 0.5) * 255.0) as u8).collect();
        let upper: &[usize] = match format {
            Format::Q4K => &[1, 3],
            Format::Q6K => &[209],
            _ => &[1],
        };
        for block in file.chunks_exact_mut(bytes) {
            upper.iter().for_each(|at| block[*at] = 0x20 | block[*at] & 3);
        }
        let stored = Stored::new(format, vec![outputs, inputs], Bytes::from(file)).unwrap();
        let expected = stored.to_tensor(&candle_core::Device::Cpu).unwrap();
        for kernel in kernels() {
            let panels = Panels::pack(&stored, format).unwrap();
            let ones: Vec<f32> =
                (0..inputs * inputs).map(|i| f32::from(u8::from(i / inputs == i % inputs))).collect();
            let rows = panels.rows(kernel, &ones, inputs);
            let found = written(inputs, outputs, |first, mut to| {
                let all = to.height();
                rows.parts().iter().for_each(|part| {
                    panels.multiply(kernel, first, (&rows, part), to.rows(0..all));
                });
            });
            for output in 0..outputs {
                let expected = expected.get(output).unwrap();
                let expected = match rows {
                    Rows::Singles(_) => expected,
                    _ => expected.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap(),
                };
                let expected = expected.to_vec1::<f32>().unwrap();
                let found = found.iter().skip(output).step_by(outputs);
                assert!(found.eq(&expected), "{format:?} {kernel:?} {output}");
            }
        }
    }
}

#[test]
fn a_weight_that_is_no_matrix_or_cannot_be_held_so_is_refused() {
    let row = Stored::new(Format::F32, vec![2], Bytes::from(vec![0; 8])).unwrap();
    assert!(Packed::pack(&row, Format::F32).is_err());
    let matrix = Stored::new(Format::F32, vec![2, 1], Bytes::from(vec![0; 8])).unwrap();
    assert!(Packed::pack(&matrix, Format::Q5K).is_err());
}

#[test]
fn the_memory_of_a_weight_is_known_before_it_is_packed() {
    for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8_0, Format::Q4K, Format::Q6K] {
        for (outputs, inputs) in [(1, 1), (16, 256), (19, 300), (40, 64)] {
            let weight =
                Stored::new(Format::F32, vec![outputs, inputs], Bytes::from(vec![0; outputs * inputs * 4]));
            let packed = Packed::pack(&weight.unwrap(), format).unwrap();
            assert_eq!(
                Packed::bytes_as([outputs, inputs], format),
                packed.bytes(),
                "{format:?} {outputs} {inputs}"
            );
        }
    }
}
