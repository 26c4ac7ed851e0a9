//! Which hidden rows of a pass the head reads, on a device.

use candle_core::{Result, Tensor};

use super::tick::row_of;
use crate::engine::batch::{Segment, StepBatch};
use crate::model::ModelConfig;
use crate::model::device::{Counts, Op, Span, Upload, Uploaded};
use crate::model::kv::pool::{Destination, Pool};

/// Rows to read; for shifted logits some of them were kept, or are to be kept, left of a block.
#[derive(Debug)]
pub(super) struct NeededPlan {
    /// `[needed]`: rows of the pass, and behind them rows left of blocks.
    rows: Span,
    /// Shifted logits only.
    lefts: Option<LeftsPlan>,
}

/// Rows of the pass that are kept as left of a block, and where; and whether such rows of earlier passes are read.
#[derive(Debug)]
struct LeftsPlan {
    from: Span,
    to: Span,
    read: bool,
}

impl NeededPlan {
    /// Of a batch.
    ///
    /// # Errors
    /// A slot is not open, or the row left of a block was never computed.
    pub(super) fn new(
        batch: &StepBatch,
        config: &ModelConfig,
        pool: &mut Pool,
        upload: &mut Upload,
    ) -> Result<Self> {
        let (mut rows, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
        let (shift, mut first, mut read) = (usize::from(config.shifted()), 0, false);
        for Segment { slot, window, targets, .. } in &batch.segments {
            let own = first + targets.start.saturating_sub(window.start);
            first += window.len();
            if targets.is_empty() {
                continue;
            }
            // As the head's output at position j predicts position j + 1, the first row is the one left of the block.
            if config.shifted() {
                if let Some(row) = row_of(batch, *slot, targets.start.saturating_sub(1)) {
                    from.push(row);
                    to.push(pool.write_left(*slot)?);
                    rows.push(row);
                } else {
                    rows.push(batch.rows() + pool.read_left(*slot)?);
                    read = true;
                }
            }
            rows.extend(own..own + targets.len() - shift);
        }
        let (from, to) = (upload.indices(from), upload.indices(to));
        let lefts = config.shifted().then_some(LeftsPlan { from, to, read });
        Ok(Self { rows: upload.indices(rows), lefts })
    }

    /// From the final hidden rows `[rows, D]`: `[needed, D]`. Writes what is kept left of blocks.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn rows(
        &self,
        hidden: &Tensor,
        pool: &Pool,
        uploaded: &Uploaded,
        counts: &Counts,
    ) -> Result<Tensor> {
        counts.add(Op::Select, 1);
        let rows = uploaded.indices(&self.rows)?;
        let Some(LeftsPlan { from, to, read }) = &self.lefts else { return hidden.index_select(&rows, 0) };
        let lefts = pool.lefts()?;
        if !from.is_empty() {
            counts.add(Op::Select, 1);
            let to = Destination::new(uploaded, to, lefts.dim(1)?, counts)?;
            to.write(&hidden.index_select(&uploaded.indices(from)?, 0)?, lefts, counts)?;
        }
        if !read {
            return hidden.index_select(&rows, 0);
        }
        counts.add(Op::Join, 2);
        Tensor::cat(&[hidden, lefts], 0)?.index_select(&rows, 0)
    }
}
