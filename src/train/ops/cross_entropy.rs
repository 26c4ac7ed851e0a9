//! Weighted cross-entropy.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use super::{elements, fused};
use crate::simd::{self, Kernel};

/// The sum over rows of weight * -log softmax(logits) at the target: logits `[M, V]`, M targets below V, M weights;
/// a scalar.
///
/// # Errors
/// The lengths differ or a target is outside the vocabulary.
pub fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    let (m, vocab) = logits.dims2()?;
    if targets.len() != m || weights.len() != m || targets.iter().any(|t| *t as usize >= vocab) {
        bail!("cross entropy of [{m}, {vocab}] logits: targets or weights do not fit");
    }
    if fused(logits) {
        let op = CrossEntropy { targets: targets.to_vec(), weights: weights.to_vec() };
        return logits.contiguous()?.apply_op1(op);
    }
    let logits = logits.to_dtype(DType::F32)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    let index = Tensor::from_slice(targets, (m, 1), logits.device())?;
    let weights = Tensor::from_slice(weights, (m, 1), logits.device())?;
    ((log_sum - shifted.gather(&index, 1)?)? * weights)?.sum_all()
}

struct CrossEntropy {
    targets: Vec<u32>,
    weights: Vec<f32>,
}

/// Soft-max of every row in place; `log_sum` gets log sum exp(x - max) and `top` the maximum.
struct SoftMax<'a> {
    values: &'a mut [f32],
    log_sum: &'a mut [f32],
    top: &'a mut [f32],
}

impl Kernel for SoftMax<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let vocab = self.values.len() / self.top.len().max(1);
        for (i, row) in self.values.chunks_exact_mut(vocab.max(1)).enumerate() {
            self.top[i] = simd::max(row);
            let sum = simd::exp_sum(row, self.top[i]);
            self.log_sum[i] = sum.ln();
            let scale = 1.0 / sum;
            for x in row {
                *x *= scale;
            }
        }
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, vocab) = layout.shape().dims2()?;
        let logits = elements(logits, layout)?;
        let (mut values, mut log_sum, mut top) = (logits.to_vec(), vec![0f32; m], vec![0f32; m]);
        simd::run(SoftMax { values: &mut values, log_sum: &mut log_sum, top: &mut top });
        let loss: f64 = (0..m)
            .map(|i| {
                let logit = logits[i * vocab + self.targets[i] as usize];
                f64::from(self.weights[i]) * (f64::from(log_sum[i]) - f64::from(logit - top[i]))
            })
            .sum();
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (m, vocab) = logits.dims2()?;
        let grad = grad.to_scalar::<f32>()?;
        let mut values = super::read(logits, <[f32]>::to_vec)?;
        let (mut log_sum, mut top) = (vec![0f32; m], vec![0f32; m]);
        simd::run(SoftMax { values: &mut values, log_sum: &mut log_sum, top: &mut top });
        for (i, row) in values.chunks_exact_mut(vocab).enumerate() {
            row[self.targets[i] as usize] -= 1.0;
            let scale = grad * self.weights[i];
            for x in row {
                *x *= scale;
            }
        }
        Ok(Some(Tensor::from_vec(values, (m, vocab), logits.device())?))
    }
}
