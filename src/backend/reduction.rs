//! From logits to candidates on a device, without sorting: k rounds of arg-max, each of which takes its winner out of the row.
//! Of equal logits the one comes first that the device's arg-max finds first: the same in any batch, the lower id on the CPU.

use candle_core::{D, DType, Device, Result, Tensor};

use super::candidates::RowCandidates;
use crate::engine::batch::Candidate;
use crate::model::device::{Counts, Op};

/// Columns of a reduced row beside its candidates: the sum of exp(logit - best), the least logit, the given token's.
const OTHERS: usize = 3;

/// What is the same for every pass.
#[derive(Debug)]
pub(super) struct Reduction {
    /// `[most rows, 1]`: the mask token (u32).
    masks: Tensor,
    /// `[most rows, 1]`: the lowest number.
    lowest: Tensor,
}

impl Reduction {
    /// For chunks of at most so many rows.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn new(mask_id: u32, rows: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            masks: Tensor::full(mask_id, (rows, 1), device)?,
            lowest: Tensor::full(f32::MIN, (rows, 1), device)?,
        })
    }

    /// logits `[rows, V]`, which nobody else holds, and given tokens `[rows]` (u32) → `[rows, 2 k + 3]`: ids, their logits best
    /// first, the others.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn reduce(
        &self,
        logits: Tensor,
        given: &Tensor,
        top_k: usize,
        counts: &Counts,
    ) -> Result<Tensor> {
        let rows = logits.dim(0)?;
        let lowest = self.lowest.narrow(0, 0, rows)?;
        // The mask token is no candidate: its share of the soft-max is exp(lowest) = 0.
        logits.scatter_set(&self.masks.narrow(0, 0, rows)?, &lowest, D::Minus1)?;
        let given = logits.gather(&given.unsqueeze(1)?, D::Minus1)?;
        let least = logits.min_keepdim(D::Minus1)?;
        let (mut ids, mut values) = (Vec::new(), Vec::new());
        let mut sum = None;
        for round in 0..top_k {
            let id = logits.argmax_keepdim(D::Minus1)?;
            let value = logits.gather(&id, D::Minus1)?;
            if sum.is_none() {
                sum = Some(logits.broadcast_sub(&value)?.exp()?.sum_keepdim(D::Minus1)?);
            }
            if round + 1 < top_k {
                logits.scatter_set(&id, &lowest, D::Minus1)?;
            }
            ids.push(id);
            values.push(value);
        }
        let mut columns = vec![Tensor::cat(&ids, 1)?.to_dtype(DType::F32)?];
        columns.extend(values);
        columns.extend(sum);
        columns.extend([least, given]);
        // The mask's scatter and one per round but the last; gathers; arg-max, the least, the sum.
        counts.add(Op::Scatter, top_k);
        counts.add(Op::Gather, 1 + top_k);
        counts.add(Op::Reduce, 2 + top_k);
        counts.add(Op::Broadcast, 1);
        counts.add(Op::Elementwise, 1);
        counts.add(Op::Join, if top_k > 1 { top_k } else { 0 });
        counts.add(Op::Cast, 1);
        counts.add(Op::Join, columns.len());
        Tensor::cat(&columns, 1)
    }
}

/// Reduced rows in host memory.
#[derive(Debug)]
pub(super) struct Found {
    values: Vec<f32>,
    top_k: usize,
}

impl Found {
    /// Rows that [`Reduction::reduce`] made for this k.
    pub(super) fn new(values: Vec<f32>, top_k: usize) -> Self {
        Self { values, top_k }
    }

    /// What row `row` says; its guess is the best token, or the given one. A row with a logit that is no finite number has
    /// no candidates.
    pub(super) fn row(&self, row: usize, given: Option<u32>) -> std::result::Result<RowCandidates, String> {
        let width = 2 * self.top_k + OTHERS;
        let (ids, rest) = self.values[row * width..][..width].split_at(self.top_k);
        let (values, others) = rest.split_at(self.top_k);
        let [sum, least, given_logit] = *others else { return Err("a row has lost its columns".to_owned()) };
        let (best, log_sum) = (f64::from(values[0]), f64::from(sum).ln());
        if !log_sum.is_finite() || !best.is_finite() || !least.is_finite() {
            return Err(format!("a logit is no finite number: from {least} to {best}, soft-max sum {sum}"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a probability needs no f64")]
        let candidate = |id: u32, logit: f32| {
            let log = f64::from(logit) - best - log_sum;
            let log_probability = log.max(f64::from(f32::MIN)) as f32;
            Candidate { id, probability: log.exp() as f32, log_probability }
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an id that became f32")]
        let top = ids.iter().zip(values).map(|(id, logit)| candidate(*id as u32, *logit));
        let top: Vec<_> = top.collect();
        let guess = given.map_or(top[0], |token| candidate(token, given_logit));
        Ok(RowCandidates { guess, top })
    }
}
