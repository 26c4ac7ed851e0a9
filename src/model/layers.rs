//! The pieces of a layer over packed rows `[rows, width]`.

use candle_core::{D, DType, Device, Result, Tensor};

use super::product::Packed;
use super::{ModelConfig, ModelError, loader::Weights, loader::tensor_error};

/// y = x W^T + b.
#[derive(Debug)]
pub struct Linear {
    weight: Packed,
    /// `[out]`
    bias: Option<Tensor>,
}

impl Linear {
    /// From a checkpoint's `{module}.weight` `[out, in]` and, if asked for, `{module}.bias` `[out]`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(
        weights: &mut Weights,
        module: &str,
        (out, width): (usize, usize),
        bias: bool,
    ) -> std::result::Result<Self, ModelError> {
        let name = format!("{module}.weight");
        let weight = weights.get(&name, &[out, width])?;
        let bias = if bias { Some(weights.get(&format!("{module}.bias"), &[out])?) } else { None };
        Self::new(&weight, bias).map_err(|e| tensor_error(&name, e))
    }

    /// From a weight `[out, in]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: Packed::new(weight)?, bias })
    }

    /// x `[rows, in]` → `[rows, out]`. A row's result does not depend on the other rows.
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
        weights: &mut Weights,
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
        candle_nn::ops::rms_norm(x, &self.weight, self.eps)
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
    candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?, cos, sin)?.squeeze(0)
}

/// Soft-max attention without a mask: every query sees every key.
///
/// q `[rows, H, h]`, k and v `[G, visible, h]` → `[rows, H * h]`; query head i reads key/value head i / (H / G).
///
/// # Errors
/// The device fails.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (rows, heads, width) = q.dims3()?;
    let groups = k.dim(0)?;
    let share = heads / groups;
    // The queries that share a key/value head become rows of one product.
    let q = q.transpose(0, 1)?.contiguous()?.reshape((groups, share * rows, width))?;
    let scale = 1.0 / (width as f64).sqrt();
    let scores = (q.matmul(&k.t()?)? * scale)?;
    let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(v)?;
    mixed.reshape((heads, rows, width))?.transpose(0, 1)?.reshape((rows, heads * width))
}

/// Weighted sums of embeddings: table `[V, D]`, ids and weights `[rows][slots]` row-major → `[rows, D]`.
///
/// # Errors
/// An id is outside the table.
pub fn mix(table: &Tensor, ids: &[u32], weights: &[f32], slots: usize) -> Result<Tensor> {
    let rows = ids.len() / slots;
    let column = |slot: usize| -> Result<Tensor> {
        let ids: Vec<u32> = ids.iter().skip(slot).step_by(slots).copied().collect();
        let weights: Vec<f32> = weights.iter().skip(slot).step_by(slots).copied().collect();
        let rows_of =
            table.index_select(&Tensor::from_vec(ids, rows, table.device())?, 0)?.to_dtype(DType::F32)?;
        rows_of.broadcast_mul(&Tensor::from_vec(weights, (rows, 1), table.device())?)
    };
    // One slot after the other, so that a row's sum does not depend on how many slots its neighbours need.
    (1..slots).try_fold(column(0)?, |sum, slot| sum + column(slot)?)
}

/// silu(gate) * up.
///
/// # Errors
/// The device fails.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    candle_nn::ops::silu(gate)? * up
}

/// x `[rows, heads * h]` → `[rows, heads, h]`.
pub(super) fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, width) = (x.dim(0)?, x.dim(D::Minus1)?);
    x.reshape((rows, heads, width / heads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn noise(seed: u64, shape: (usize, usize)) -> Tensor {
        let key = rng::key(&[seed]);
        let values: Vec<f32> =
            (0..(shape.0 * shape.1) as u64).map(|i| rng::uniform(key, i) as f32 - 0.5).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Every row of `total` rows of this shape is the same among `counts` rows.
    fn check_rows((out, width): (usize, usize), total: usize, counts: impl IntoIterator<Item = usize>) {
        let linear = Linear::new(&noise(1, (out, width)), None).unwrap();
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
    fn so_it_is_for_a_head_of_many_tokens() {
        // As many rows as the head is given at once.
        check_rows((32_000, 768), 262, (1..=70).chain([128, 200]));
    }
}
