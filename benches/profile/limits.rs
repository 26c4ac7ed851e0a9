//! What the machine can do, measured.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use evotoken::model::product::Packed;
use evotoken::model::stored::{Format, Stored};
use rayon::prelude::*;

/// Times that something is tried; the best counts.
const TRIES: usize = 12;
/// Values of an array that no cache holds.
const MANY: usize = 128 << 20;

/// Peaks of this number of threads.
pub struct Limits {
    /// Billions of operations a second of our products, by format and rows.
    products: Vec<(Format, usize, f64)>,
    /// The same of PyTorch's best, by type.
    torch: BTreeMap<&'static str, f64>,
    /// GB/s read.
    pub read: f64,
    /// GB/s read and written, counted once each.
    pub copy: f64,
}

impl Limits {
    /// Measure them.
    pub fn measure(threads: usize, python: Option<&Path>) -> Result<Self> {
        let device = Device::Cpu;
        let mut products = Vec::new();
        for format in [Format::F32, Format::Bf16, Format::Q8_0, Format::Q4K] {
            let weight = Stored::of_tensor(&Tensor::randn(0f32, 1.0, (4096, 4096), &device)?)?;
            let weight = Packed::pack(&weight, format)?;
            for rows in [32, 256, 1024] {
                let x = Tensor::randn(0f32, 1.0, (rows, 4096), &device)?;
                let seconds = best(|| weight.product(&x).map(drop))?;
                products.push((format, rows, 2.0 * (rows * 4096 * 4096) as f64 / seconds / 1e9));
            }
        }
        let mut torch = BTreeMap::new();
        for kind in ["f32", "bf16", "int8"] {
            if let Some(python) = python {
                torch.insert(kind, torch_peak(python, threads, kind)?);
            }
        }
        let (from, mut to) = (vec![1f32; MANY], vec![0f32; MANY]);
        let part = MANY.div_ceil(threads);
        let copy = best::<std::convert::Infallible>(|| {
            to.par_chunks_mut(part)
                .zip(from.par_chunks(part))
                .for_each(|(to, from)| to.copy_from_slice(from));
            Ok(())
        })?;
        let read = best::<std::convert::Infallible>(|| {
            std::hint::black_box(from.par_chunks(part).map(sum).sum::<f32>());
            Ok(())
        })?;
        let bytes = (4 * MANY) as f64 / 1e9;
        Ok(Self { products, torch, read: bytes / read, copy: 2.0 * bytes / copy })
    }

    /// The best product of weights of this format, whoever's it is, in billions of operations a second.
    pub fn peak(&self, format: Format) -> f64 {
        let ours = self.products.iter().filter(|(of, ..)| *of == format).map(|(.., speed)| *speed);
        // Blocks are widened to bf16 where there is a unit for it; integers would be faster still.
        let kind = if matches!(format, Format::F32 | Format::F16) { "f32" } else { "bf16" };
        ours.fold(self.torch.get(kind).copied().unwrap_or(0.0), f64::max)
    }

    /// As Markdown.
    pub fn print(&self, threads: usize) {
        println!(
            "\n## Threads: {threads}\n\n| product, 4,096 x 4,096 | 32 rows | 256 | 1,024 |\n|---|---|---|---|"
        );
        for three in self.products.chunks(3) {
            let [first, second, third] = three else { continue };
            println!("| ours, {} | {:.0} | {:.0} | {:.0} |", first.0.name(), first.2, second.2, third.2);
        }
        for (kind, speed) in &self.torch {
            println!("| PyTorch, {kind} | best of 256 and 1,024: | {speed:.0} | |");
        }
        println!(
            "\nGFLOP/s. Memory: {:.1} GB/s read, {:.1} GB/s copied (read + written).",
            self.read, self.copy
        );
    }
}

fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    for chunk in values.as_chunks::<16>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum()
}

/// Seconds of the fastest try.
fn best<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut fastest = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        work()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

fn torch_peak(python: &Path, threads: usize, kind: &str) -> Result<f64> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/torch_peak.py");
    let output = Command::new(python).args([script, &threads.to_string(), kind]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
