//! Ticks in host memory: own products, attention segment by segment, candidates in one pass per row.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::candidates;
use super::tick::{Network, Parked, Tick, head_rows, push, row_of, sampling};
use crate::engine::batch::{PrefixId, Segment, SlotId, StepBatch, StepOutput};
use crate::model::kv::slots::{Segmented, Slots};
use crate::model::transformer::Pass;
use crate::model::{ModelConfig, host};

/// Most bytes of logits at once: the head runs over chunks of rows, so `[rows, vocabulary]` never exists as a whole. Each chunk
/// reads the head's weights anew (1 GB of LLaDA-8B's), so there should be few: this is 265 rows of LLaDA's.
const LOGITS_BYTES: usize = 128 << 20;

/// Slots in host memory, and a step that is cut.
#[derive(Debug, Default)]
pub(super) struct HostTick {
    slots: Slots,
    parked: Parked,
}

impl HostTick {
    /// Some layers over hidden rows.
    fn layers(
        &self,
        network: &Network,
        batch: &StepBatch,
        hidden: Tensor,
        layers: Range<usize>,
    ) -> Result<Tensor> {
        let memory = &Segmented { segments: &batch.segments, slots: &self.slots };
        let adapters = &network.adapters.rows(batch)?;
        let pass = Pass { positions: network.model.positions(batch)?, memory, adapters };
        network.model.run(hidden, &pass, layers)
    }

    /// Of the final hidden rows those from which the logits of the targets are read, `[needed, D]`.
    fn needed_rows(&mut self, config: &ModelConfig, batch: &StepBatch, hidden: Tensor) -> Result<Tensor> {
        if config.shifted() {
            return self.shifted_rows(batch, &hidden);
        }
        let mut parts = Vec::new();
        let mut first_row = 0;
        for segment in &batch.segments {
            let Segment { window, targets, .. } = segment;
            if !targets.is_empty() {
                parts.push(hidden.narrow(0, first_row + targets.start - window.start, targets.len())?);
            }
            first_row += window.len();
        }
        Tensor::cat(&parts, 0)
    }

    /// As the head's output at position j predicts position j + 1, targets `[lo, stop)` are read from the rows
    /// `[lo - 1, stop - 1)`. Row lo - 1 is kept in the slot when it comes by (in the block's first step).
    fn shifted_rows(&mut self, batch: &StepBatch, hidden: &Tensor) -> Result<Tensor> {
        let mut parts = Vec::new();
        let mut first_row = 0;
        for segment in &batch.segments {
            let Segment { slot, window, targets, .. } = segment;
            let rows = first_row..first_row + window.len();
            first_row = rows.end;
            if targets.is_empty() {
                continue;
            }
            if let Some(row) = row_of(batch, *slot, targets.start.saturating_sub(1)) {
                // Of its own memory: a view, and candle's `copy` of one, hold on to all rows of the pass.
                self.slots.get_mut(*slot)?.left = Some(hidden.narrow(0, row, 1)?.force_contiguous()?);
            }
            let left = self.slots.get(*slot)?.left.clone();
            parts.push(
                left.ok_or_else(|| candle_core::Error::msg("the row left of the block was never computed"))?,
            );
            if targets.len() > 1 {
                parts.push(hidden.narrow(0, rows.start + targets.start - window.start, targets.len() - 1)?);
            }
        }
        Tensor::cat(&parts, 0)
    }

    /// What the final hidden rows say of the rows whose logits are needed.
    fn candidates(&mut self, network: &Network, batch: &StepBatch, hidden: Tensor) -> Result<StepOutput> {
        let config = network.model.config();
        let hidden = self.needed_rows(config, batch, hidden)?;
        let (mask_id, top_k) = (config.mask_id, batch.top_k.clamp(1, config.vocab - 1));
        let sampling = sampling(batch);
        let mut output = StepOutput { top_k, ..StepOutput::default() };
        let adapters = network.adapters.needed_rows(batch)?;
        let head_rows = head_rows(config, LOGITS_BYTES);
        for (chunk, sampling) in sampling.chunks(head_rows).enumerate() {
            let rows = chunk * head_rows..chunk * head_rows + sampling.len();
            let hidden = hidden.narrow(0, rows.start, rows.len())?;
            let logits = network.model.logits(&hidden, &adapters.within(&rows))?;
            let find = |logits: &[f32]| candidates::candidates(logits, mask_id, top_k, sampling);
            let rows = tracing::trace_span!("candidates").in_scope(|| host::read(&logits, find))?;
            rows.into_iter().for_each(|row| push(&mut output, row));
        }
        Ok(output)
    }
}

impl Tick for HostTick {
    fn bytes_per_position(&self, config: &ModelConfig) -> usize {
        Slots::bytes_per_position(config)
    }

    fn open(&mut self, slot: SlotId, config: &ModelConfig, canvas: usize) -> Result<()> {
        self.slots.open(slot, config, canvas)
    }

    fn close(&mut self, slot: SlotId) {
        self.slots.close(slot);
        self.parked.close(slot);
    }

    fn keep(&mut self, _: &Network, prefix: PrefixId, slot: SlotId, stretch: &Range<usize>) -> Result<()> {
        self.slots.keep(prefix, slot, stretch)
    }

    fn restore(&mut self, _: &Network, prefix: PrefixId, slot: SlotId) -> Result<()> {
        self.slots.restore(prefix, slot)
    }

    fn forget(&mut self, prefix: PrefixId) {
        self.slots.forget(prefix);
    }

    fn run(
        &mut self,
        network: &Network,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> Result<Option<StepOutput>> {
        let hidden = match layers.start {
            0 => network.model.embed(batch)?,
            _ => self.parked.take(batch)?,
        };
        let hidden = self.layers(network, batch, hidden, layers.clone())?;
        if layers.end < network.model.config().layers {
            self.parked.put(batch, hidden);
            return Ok(None);
        }
        let hidden = network.model.finish(&hidden)?;
        self.candidates(network, batch, hidden).map(Some)
    }

    fn logits(&mut self, network: &Network, batch: &StepBatch) -> Result<Vec<Vec<f32>>> {
        let config = network.model.config();
        let hidden = self.layers(network, batch, network.model.embed(batch)?, 0..config.layers)?;
        let hidden = self.needed_rows(config, batch, network.model.finish(&hidden)?)?;
        network.model.logits(&hidden, &network.adapters.needed_rows(batch)?)?.to_vec2()
    }
}
