//! Embeddings of hard and soft tokens.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{elements, fused};

/// The input of a batch of positions: per position `width` (token id, weight) pairs whose weights sum to 1.
/// A hard token is one pair of weight 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Token ids, `[positions, width]`.
    pub ids: Vec<u32>,
    /// Weights, `[positions, width]`.
    pub weights: Vec<f32>,
    /// Pairs per position.
    pub width: usize,
}

impl Mixture {
    /// One pair of weight 1 per position.
    pub fn hard(ids: &[u32]) -> Self {
        Self { ids: ids.to_vec(), weights: vec![1.0; ids.len()], width: 1 }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.ids.len() / self.width
    }
}

/// Weighted sums of rows of `table` `[V, D]`: `[positions, D]`. Differentiable in the table only.
///
/// # Errors
/// An id is outside the table.
pub fn embed(table: &Tensor, input: &Mixture) -> Result<Tensor> {
    let vocab = table.dim(0)?;
    if let Some(id) = input.ids.iter().find(|id| **id as usize >= vocab) {
        bail!("token {id} is outside the embedding table of {vocab} rows");
    }
    if fused(table) {
        return table.contiguous()?.apply_op1(Embed(input.clone()));
    }
    let (n, k) = (input.positions(), input.width);
    let ids = Tensor::from_slice(&input.ids, n * k, table.device())?;
    let weights = Tensor::from_slice(&input.weights, (n, k, 1), table.device())?.to_dtype(table.dtype())?;
    table.index_select(&ids, 0)?.reshape((n, k, ()))?.broadcast_mul(&weights)?.sum(1)
}

struct Embed(Mixture);

impl CustomOp1 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, d) = layout.shape().dims2()?;
        let table = elements(table, layout)?;
        let n = self.0.positions();
        let mut out = vec![0f32; n * d];
        for (i, row) in out.chunks_exact_mut(d).enumerate() {
            for j in i * self.0.width..(i + 1) * self.0.width {
                let id = self.0.ids[j] as usize;
                crate::simd::axpy(row, self.0.weights[j], &table[id * d..(id + 1) * d]);
            }
        }
        Ok((CpuStorage::F32(out), (n, d).into()))
    }

    fn bwd(&self, table: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (vocab, d) = table.dims2()?;
        let mut out = vec![0f32; vocab * d];
        super::read(grad, |grad| {
            for (i, row) in grad.chunks_exact(d).enumerate() {
                for j in i * self.0.width..(i + 1) * self.0.width {
                    let id = self.0.ids[j] as usize;
                    crate::simd::axpy(&mut out[id * d..(id + 1) * d], self.0.weights[j], row);
                }
            }
        })?;
        Ok(Some(Tensor::from_vec(out, (vocab, d), table.device())?))
    }
}
