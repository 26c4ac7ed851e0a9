//! The pieces of a layer over packed rows `[rows, width]`.

use candle_core::{D, Device, Result, Tensor};

use super::device::{Counts, Op};
use super::host;
use super::loader::Weights;
use super::matrix::Matrix;
use super::{ModelConfig, ModelError};
use crate::simd;

/// y = x W^T + b.
#[derive(Debug)]
pub struct Linear {
    weight: Matrix,
    /// `[out]`
    bias: Option<Tensor>,
}

impl Linear {
    /// From a checkpoint's `{module}.weight` `[out, in]` and, if asked for, `{module}.bias` `[out]`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(
        weights: &Weights,
        module: &str,
        shape: [usize; 2],
        bias: bool,
    ) -> std::result::Result<Self, ModelError> {
        let weight = weights.matrix(module, shape)?;
        let bias = if bias { Some(weights.get(&format!("{module}.bias"), &shape[..1])?) } else { None };
        Ok(Self { weight, bias })
    }

    /// Without a bias.
    pub fn of(weight: Matrix) -> Self {
        Self { weight, bias: None }
    }

    /// Count what it launches.
    pub fn count(&self, counts: &Counts) {
        self.weight.count(counts);
        counts.add(Op::Broadcast, usize::from(self.bias.is_some()));
    }

    /// x `[rows, in]` → `[rows, out]`. With a packed weight a row's result does not depend on the other rows.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.product(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// weight * x / sqrt(mean(x^2) + eps), per row.
#[derive(Debug)]
pub struct RmsNorm {
    /// `[width]`
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// From a checkpoint's `{module}.weight` `[width]`.
    ///
    /// # Errors
    /// The tensor is missing or misshapen.
    pub fn load(
        weights: &Weights,
        module: &str,
        width: usize,
        eps: f64,
    ) -> std::result::Result<Self, ModelError> {
        #[expect(clippy::cast_possible_truncation, reason = "rows are f32")]
        let eps = eps as f32;
        Ok(Self { weight: weights.get(&format!("{module}.weight"), &[width])?, eps })
    }

    /// x `[rows, width]` → the same shape.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return candle_nn::ops::rms_norm(x, &self.weight, self.eps);
        }
        let (shape, eps) = (x.shape(), self.eps);
        host::read(x, |x| {
            host::read(&self.weight, |w| {
                host::fill(shape, w.len(), |first, out| {
                    let x = &x[first * w.len()..][..out.len()];
                    simd::run(simd::RmsNorm { x, w, eps, out });
                })
            })
        })??
    }
}

/// Rotary angles of all positions: component i of a head is paired with i + h/2 and turned by position * theta^(-2i/h).
#[derive(Debug)]
pub struct Rotary {
    /// `[positions, h/2]`
    cos: Tensor,
    /// `[positions, h/2]`
    sin: Tensor,
}

impl Rotary {
    /// Tables for every position of the longest canvas, computed in f64.
    ///
    /// # Errors
    /// The device fails.
    #[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
    pub fn new(config: &ModelConfig, device: &Device) -> Result<Self> {
        let (half, positions) = (config.head_width() / 2, config.max_positions);
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for i in 0..half {
                let frequency = config.rope_theta.powf(-(i as f64) / half as f64);
                let angle = position as f64 * frequency;
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        let table = |values| Tensor::from_vec(values, (positions, half), device);
        Ok(Self { cos: table(cos)?, sin: table(sin)? })
    }

    /// The angles of packed rows: positions `[rows]` (u32) → (cos, sin), each `[rows, h/2]`.
    ///
    /// # Errors
    /// A position is beyond the longest canvas.
    pub fn at(&self, positions: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.cos.index_select(positions, 0)?, self.sin.index_select(positions, 0)?))
    }
}

/// x `[rows, heads, h]` turned by the angles of its rows.
///
/// # Errors
/// The device fails.
pub fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?, cos, sin)?.squeeze(0);
    }
    let shape = x.shape();
    let (_, heads, head) = x.dims3()?;
    let (width, half) = (heads * head, head / 2);
    host::read(x, |x| {
        host::read(cos, |cos| {
            host::read(sin, |sin| {
                host::fill(shape, width, |first, out| {
                    for (row, out) in (first..).zip(out.chunks_exact_mut(width)) {
                        let (x, angles) = (&x[row * width..][..width], row * half..(row + 1) * half);
                        simd::run(simd::Rotate { x, cos: &cos[angles.clone()], sin: &sin[angles], out });
                    }
                })
            })
        })
    })???
}

/// silu(gate) * up.
///
/// # Errors
/// The device fails.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !gate.device().is_cpu() {
        return candle_nn::ops::silu(gate)? * up;
    }
    let shape = gate.shape();
    let width = gate.dim(D::Minus1)?;
    host::read(gate, |gate| {
        host::read(up, |up| {
            host::fill(shape, width, |first, out| {
                let (gate, up) = (&gate[first * width..][..out.len()], &up[first * width..][..out.len()]);
                simd::run(simd::SwiGlu { gate, up, out });
            })
        })
    })??
}

/// x `[rows, heads * h]` → `[rows, heads, h]`.
pub(super) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, width) = (x.dim(0)?, x.dim(D::Minus1)?);
    x.reshape((rows, heads, width / heads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::product::Packed;
    use crate::model::stored::{Format, Stored};
    use crate::rng;

    fn noise(seed: u64, shape: (usize, usize)) -> Tensor {
        let key = rng::key(&[seed]);
        let values: Vec<f32> =
            (0..(shape.0 * shape.1) as u64).map(|i| rng::uniform(key, i) as f32 - 0.5).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Every row of `total` rows of this shape is the same among `counts` rows.
    fn check_rows((out, width): (usize, usize), total: usize, counts: impl IntoIterator<Item = usize>) {
        check_weight(Packed::new(&noise(1, (out, width))).unwrap(), (out, width), total, counts);
    }

    fn check_weight(
        weight: Packed,
        (out, width): (usize, usize),
        total: usize,
        counts: impl IntoIterator<Item = usize>,
    ) {
        let linear = Linear::of(Matrix::Packed(weight));
        let x = noise(2, (total, width));
        let values = |x: &Tensor| linear.forward(x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let all = values(&x);
        for rows in counts {
            let some = values(&x.narrow(0, total - rows, rows).unwrap());
            let equal = some == all[(total - rows) * out..];
            assert!(equal, "{rows} rows of {width} x {out} differ from the same rows among {total}");
        }
    }

    #[test]
    fn a_row_is_the_same_to_the_bit_among_any_number_of_rows() {
        let tests = [(8, 64), (64, 64), (160, 64), (64, 160), (256, 1024)];
        // Of the bundled model.
        let bundled = [(128, 128), (352, 128), (128, 352), (525, 128)];
        // Of a model of 110 million parameters.
        let small = [(768, 768), (2048, 768), (768, 2048)];
        // Few outputs of a wide row: keys and values of grouped heads.
        let narrow = [(64, 1024), (32, 2048)];
        for shape in [tests.as_slice(), &bundled, &small, &narrow].concat() {
            check_rows(shape, 1030, (1..=70).chain([96, 128, 333, 512, 1000]));
        }
    }

    #[test]
    fn so_it_is_in_every_format() {
        for format in [Format::F16, Format::Bf16, Format::Q8_0, Format::Q4K, Format::Q6K] {
            for shape in [(64, 64), (525, 128), (128, 352), (64, 1024)] {
                let stored = Stored::of_tensor(&noise(1, shape)).unwrap();
                let weight = Packed::pack(&stored, format).unwrap();
                check_weight(weight, shape, 1030, (1..=70).chain([96, 333, 1000]));
            }
        }
    }

    #[test]
    fn so_it_is_for_a_head_of_many_tokens() {
        // As many rows as the head is given at once.
        check_rows((32_000, 768), 262, (1..=70).chain([128, 200]));
    }
}
