//! What tokens feed into the first layer: weighted sums of embeddings.

use candle_core::{DType, Device, Result, Tensor};

use super::ModelError;
use super::device::{Counts, Op, Span, Upload, Uploaded};
use super::loader::Weights;
use super::matrix::Matrix;
use super::stored::Stored;
use crate::engine::batch::StepBatch;

/// The embedding table `[V, D]`.
#[derive(Debug)]
pub enum Embedding {
    /// As it was stored: a pass needs few of its rows.
    Stored(Table),
    /// On the device, as its matrices are held there.
    Dense(Tensor),
}

/// A table in host memory.
#[derive(Debug)]
pub struct Table(Stored);

impl Embedding {
    /// From a checkpoint's `{module}.weight` `[vocab, width]`.
    ///
    /// # Errors
    /// The tensor is missing or misshapen.
    pub fn load(weights: &Weights, module: &str, shape: [usize; 2]) -> std::result::Result<Self, ModelError> {
        let name = format!("{module}.weight");
        let stored = weights.stored(&name, &shape)?;
        match weights.dense() {
            Some(dtype) => weights.to_device(&name, &stored, dtype).map(Self::Dense),
            None => Ok(Self::Stored(Table(stored.into_memory()))),
        }
    }

    /// The table as the head.
    ///
    /// # Errors
    /// Names the tensor.
    pub fn head(&self, weights: &Weights, module: &str) -> std::result::Result<Matrix, ModelError> {
        match self {
            Self::Stored(table) => weights.tied_head(module, &table.0),
            Self::Dense(table) => Ok(Matrix::Dense(table.clone())),
        }
    }

    /// How many tokens it has.
    fn vocab(&self) -> usize {
        match self {
            Self::Stored(table) => table.0.rows(),
            Self::Dense(table) => table.dims().first().copied().unwrap_or(0),
        }
    }

    /// What the packed rows of a batch feed in, `[rows, D]`, summed in host memory.
    ///
    /// # Errors
    /// An id is outside the table, or it is on the device.
    pub fn of_batch(&self, batch: &StepBatch, device: &Device) -> Result<Tensor> {
        match self {
            Self::Stored(table) => table.mix((0..batch.rows()).map(|row| batch.row(row)), device),
            Self::Dense(_) => candle_core::bail!("the embedding table is on the device"),
        }
    }
}

/// What the rows of a pass feed in, as it goes to the device: the first pair of every row, and the other pairs of those that
/// have more.
#[derive(Debug)]
pub struct MixturePlan {
    ids: Span,
    weights: Span,
    more_rows: Span,
    more_ids: Span,
    more_weights: Span,
}

impl MixturePlan {
    /// Of a batch.
    ///
    /// # Errors
    /// An id is outside the table.
    pub fn new(batch: &StepBatch, embedding: &Embedding, upload: &mut Upload) -> Result<Self> {
        let vocab = embedding.vocab();
        if let Some((id, _)) = batch.pairs.iter().find(|(id, _)| *id as usize >= vocab) {
            candle_core::bail!("token {id} is outside the vocabulary")
        }
        let rows = || (0..batch.rows()).map(|row| batch.row(row));
        // A row without pairs feeds in nothing.
        let first = || rows().map(|pairs| pairs.first().copied().unwrap_or((0, 0.0)));
        let more =
            || rows().enumerate().flat_map(|(row, pairs)| pairs.iter().skip(1).map(move |p| (row, *p)));
        Ok(Self {
            ids: upload.indices(first().map(|(id, _)| id as usize)),
            weights: upload.numbers(first().map(|(_, weight)| weight)),
            more_rows: upload.indices(more().map(|(row, _)| row)),
            more_ids: upload.indices(more().map(|(_, (id, _))| id as usize)),
            more_weights: upload.numbers(more().map(|(_, (_, weight))| weight)),
        })
    }

    /// The mixtures `[rows, D]` in f32: a row's pairs are summed in their order.
    ///
    /// # Errors
    /// The table is not on the device, or the device fails.
    pub fn mix(&self, embedding: &Embedding, uploaded: &Uploaded, counts: &Counts) -> Result<Tensor> {
        let Embedding::Dense(table) = embedding else {
            candle_core::bail!("the embedding table is not on the device")
        };
        let weighted = |ids: &Span, weights: &Span| {
            counts.add(Op::Select, 1);
            counts.add(Op::Cast, usize::from(table.dtype() != DType::F32));
            counts.add(Op::Broadcast, 1);
            let rows = table.index_select(&uploaded.indices(ids)?, 0)?.to_dtype(DType::F32)?;
            rows.broadcast_mul(&uploaded.numbers(weights)?.unsqueeze(1)?)
        };
        let first = weighted(&self.ids, &self.weights)?;
        if self.more_rows.is_empty() {
            return Ok(first);
        }
        counts.add(Op::IndexAdd, 1);
        let more = weighted(&self.more_ids, &self.more_weights)?;
        first.index_add(&uploaded.indices(&self.more_rows)?, &more, 0)
    }
}

impl Table {
    /// Weighted sums of embeddings: per row its (token id, weight) pairs → `[rows, D]`. Summed pair by pair in f32, so a
    /// row's sum does not depend on its neighbours.
    ///
    /// # Errors
    /// An id is outside the table.
    fn mix<'a>(&self, rows: impl Iterator<Item = &'a [(u32, f32)]>, device: &Device) -> Result<Tensor> {
        let width = self.0.width();
        let (mut sums, mut embedding) = (Vec::new(), vec![0.0; width]);
        for pairs in rows {
            let first = sums.len();
            sums.resize(first + width, 0.0);
            for (id, weight) in pairs {
                let row = *id as usize;
                if row >= self.0.rows() {
                    return Err(candle_core::Error::msg(format!("token {id} is outside the vocabulary")));
                }
                self.0.read_row(row, &mut embedding);
                for (sum, value) in sums[first..].iter_mut().zip(&embedding) {
                    *sum += weight * value;
                }
            }
        }
        let rows = sums.len() / width;
        Tensor::from_vec(sums, (rows, width), device)
    }
}
