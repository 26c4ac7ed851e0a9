//! What a backend asks of whoever runs its ticks: in host memory ([`HostTick`](super::host_tick::HostTick)) or on a device
//! ([`DeviceTick`](super::device_tick::DeviceTick)).

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::candidates::{RowCandidates, RowSampling};
use crate::engine::batch::{PrefixId, SlotId, StepBatch, StepOutput};
use crate::model::adapters::Adapters;
use crate::model::{ModelConfig, Transformer};

/// What all ticks go through.
pub(super) struct Network<'a> {
    /// The model.
    pub model: &'a Transformer,
    /// What may stand beside its weights.
    pub adapters: &'a Adapters,
}

/// K/V memory, and passes over it. The functions are those of [`Backend`](crate::engine::batch::Backend).
pub(super) trait Tick: std::fmt::Debug + Send {
    fn bytes_per_position(&self, config: &ModelConfig) -> usize;

    fn open(&mut self, slot: SlotId, config: &ModelConfig, canvas: usize) -> Result<()>;

    fn close(&mut self, slot: SlotId);

    fn keep(
        &mut self,
        network: &Network,
        prefix: PrefixId,
        slot: SlotId,
        stretch: &Range<usize>,
    ) -> Result<()>;

    fn restore(&mut self, network: &Network, prefix: PrefixId, slot: SlotId) -> Result<()>;

    fn forget(&mut self, prefix: PrefixId);

    /// Some layers of a step, the result with the last. All layers: of any batch; else of one slot.
    fn run(
        &mut self,
        network: &Network,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> Result<Option<StepOutput>>;

    /// The logits of all needed rows, each `[vocabulary]`.
    fn logits(&mut self, network: &Network, batch: &StepBatch) -> Result<Vec<Vec<f32>>>;
}

/// The hidden rows of a step that is cut, and the slot it is of.
#[derive(Debug, Default)]
pub(super) struct Parked(Option<(SlotId, Tensor)>);

impl Parked {
    /// Keep the rows of a batch's step until it goes on.
    pub(super) fn put(&mut self, batch: &StepBatch, hidden: Tensor) {
        self.0 = batch.segments.first().map(|segment| (segment.slot, hidden));
    }

    /// The rows of the step that a batch goes on with.
    ///
    /// # Errors
    /// It was not begun.
    pub(super) fn take(&mut self, batch: &StepBatch) -> Result<Tensor> {
        let slot = batch.segments.first().map(|segment| segment.slot);
        let hidden = self.0.take().filter(|(owner, _)| Some(*owner) == slot).map(|(_, hidden)| hidden);
        hidden.ok_or_else(|| candle_core::Error::msg("a step goes on that was not begun"))
    }

    /// A slot is given back.
    pub(super) fn close(&mut self, slot: SlotId) {
        self.0.take_if(|(owner, _)| *owner == slot);
    }
}

/// Append what was found of a row.
pub(super) fn push(output: &mut StepOutput, row: std::result::Result<RowCandidates, String>) {
    match row {
        Ok(row) => output.push_row(row.guess, row.top),
        Err(reason) => output.push_fault(reason),
    }
}

/// Rows that the head may take at once, so that their logits are at most so many bytes.
pub(super) fn head_rows(config: &ModelConfig, bytes: usize) -> usize {
    (bytes / (config.vocab * size_of::<f32>())).max(1)
}

/// What the sequences of the needed rows want.
pub(super) fn sampling(batch: &StepBatch) -> Vec<Option<RowSampling<'_>>> {
    let rows = batch.segments.iter().flat_map(|segment| {
        let sampling = segment.sampling.as_ref();
        segment
            .targets
            .clone()
            .map(move |position| sampling.map(|sampling| RowSampling { sampling, position }))
    });
    rows.collect()
}

/// The packed row of canvas position `position` of `slot`, if it is in this batch.
pub(super) fn row_of(batch: &StepBatch, slot: SlotId, position: usize) -> Option<usize> {
    let mut first_row = 0;
    for segment in &batch.segments {
        if segment.slot == slot && segment.window.contains(&position) {
            return Some(first_row + position - segment.window.start);
        }
        first_row += segment.window.len();
    }
    None
}
