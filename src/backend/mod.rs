//! The engine's [`Backend`] over candle: one forward pass over the packed rows, then candidates of the needed rows.

pub mod candidates;
pub mod device;
mod filters;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::engine::batch::{
    AdapterId, Backend, BackendError, PrefixId, Segment, SlotId, StepBatch, StepOutput,
};
use crate::engine::variant::AdapterLoader;
use crate::model::adapters::{Adapters, PackedLoader};
use crate::model::host;
use crate::model::kv::slots::{Segmented, Slots};
use crate::model::loader::Weights;
use crate::model::transformer::Pass;
use crate::model::{ModelConfig, ModelError, ModelSource, Transformer};
use candidates::RowSampling;
use device::{DeviceChoice, Placement};

/// Most bytes of logits at once: the head runs over chunks of rows, so `[rows, vocabulary]` never exists as a whole.
const LOGITS_BYTES: usize = 32 << 20;

/// A model on a device, with its adapters and the K/V slots of its sequences.
#[derive(Debug)]
pub struct CandleBackend {
    model: Transformer,
    adapters: Adapters,
    loader: Arc<PackedLoader>,
    slots: Slots,
    /// The hidden rows of a step that is cut, and the slot it is of.
    parked: Option<(SlotId, Tensor)>,
}

impl CandleBackend {
    /// Load a model.
    ///
    /// # Errors
    /// Names the file or tensor that is missing or unusable.
    pub fn load(
        source: &ModelSource,
        placement: impl Into<Placement>,
    ) -> std::result::Result<Self, ModelError> {
        let Placement { device, holding } = placement.into();
        let device = device.open()?;
        let config = ModelConfig::load(source)?;
        let weights = Weights::open(source, holding, &device)?;
        Ok(Self::new(Transformer::load(config, &weights, &device)?))
    }

    /// A model whose weights are in memory, by their names in a checkpoint.
    ///
    /// # Errors
    /// Names the tensor that is missing or misshapen.
    pub fn from_tensors(
        config: ModelConfig,
        tensors: &BTreeMap<String, Tensor>,
        device: DeviceChoice,
    ) -> std::result::Result<Self, ModelError> {
        let device = device.open()?;
        let weights = Weights::from_tensors(tensors, &device)?;
        Ok(Self::new(Transformer::load(config, &weights, &device)?))
    }

    fn new(model: Transformer) -> Self {
        let (adapters, loader) = Adapters::new(model.config(), model.device());
        Self { model, adapters, loader: Arc::new(loader), slots: Slots::default(), parked: None }
    }

    /// Who brings adapters into this backend, also while it runs elsewhere.
    pub fn adapter_loader(&self) -> Arc<dyn AdapterLoader> {
        self.loader.clone()
    }

    /// Sizes and constants of the model.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// How often a weight matrix, or an adapter's change of one, was applied so far.
    pub fn linear_calls(&self) -> u64 {
        self.model.linear_calls()
    }

    /// One step that returns all logits `[targets, vocabulary]` of each segment instead of candidates: for scoring a
    /// given text and for comparing with a reference.
    ///
    /// # Errors
    /// As [`Backend::step`].
    pub fn logits(&mut self, batch: &StepBatch) -> std::result::Result<Vec<Vec<Vec<f32>>>, BackendError> {
        let all = |this: &mut Self| -> Result<_> {
            let hidden = this.forward(batch)?;
            let hidden = this.needed_rows(batch, hidden)?;
            let adapters = this.adapters.needed_rows(batch)?;
            let mut row = 0;
            let mut of_segments = Vec::new();
            for segment in &batch.segments {
                let rows = row..row + segment.targets.len();
                row = rows.end;
                of_segments.push(match rows.len() {
                    0 => Vec::new(),
                    _ => {
                        let hidden = hidden.narrow(0, rows.start, rows.len())?;
                        this.model.logits(&hidden, &adapters.within(&rows))?.to_vec2::<f32>()?
                    }
                });
            }
            Ok(of_segments)
        };
        all(self).map_err(forward_error)
    }

    /// All layers.
    fn forward(&mut self, batch: &StepBatch) -> Result<Tensor> {
        let hidden = self.model.embed(batch)?;
        let hidden = self.layers_of(batch, hidden, 0..self.config().layers)?;
        self.model.finish(&hidden)
    }

    /// Some layers over hidden rows.
    fn layers_of(&mut self, batch: &StepBatch, hidden: Tensor, layers: Range<usize>) -> Result<Tensor> {
        self.adapters.receive();
        let memory = &Segmented { segments: &batch.segments, slots: &self.slots };
        let adapters = &self.adapters.rows(batch)?;
        let pass = Pass { positions: self.model.positions(batch)?, memory, adapters };
        self.model.run(hidden, &pass, layers)
    }

    /// Of the final hidden rows those from which the logits of the targets are read, `[needed, D]`.
    fn needed_rows(&mut self, batch: &StepBatch, hidden: Tensor) -> Result<Tensor> {
        if self.model.config().shifted() {
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

    /// Some layers of a step of one slot; the result with the last.
    fn run_layers(&mut self, batch: &StepBatch, layers: Range<usize>) -> Result<Option<StepOutput>> {
        let slot = batch.segments.first().map(|segment| segment.slot);
        let parked = self.parked.take().filter(|(owner, _)| Some(*owner) == slot).map(|(_, hidden)| hidden);
        let hidden = match parked {
            _ if layers.start == 0 => self.model.embed(batch)?,
            Some(hidden) => hidden,
            None => return Err(candle_core::Error::msg("a step goes on that was not begun")),
        };
        let hidden = self.layers_of(batch, hidden, layers.clone())?;
        if layers.end < self.config().layers {
            self.parked = slot.map(|slot| (slot, hidden));
            return Ok(None);
        }
        let hidden = self.model.finish(&hidden)?;
        self.candidates(batch, hidden).map(Some)
    }

    /// What the final hidden rows say of the rows whose logits are needed.
    fn candidates(&mut self, batch: &StepBatch, hidden: Tensor) -> Result<StepOutput> {
        let hidden = self.needed_rows(batch, hidden)?;
        let (mask_id, top_k) = (self.config().mask_id, batch.top_k.clamp(1, self.config().vocab - 1));
        let sampling: Vec<Option<RowSampling>> = batch.segments.iter().flat_map(row_sampling).collect();
        let mut output = StepOutput { top_k, ..StepOutput::default() };
        let adapters = self.adapters.needed_rows(batch)?;
        let head_rows = (LOGITS_BYTES / (self.config().vocab * size_of::<f32>())).max(1);
        for (chunk, sampling) in sampling.chunks(head_rows).enumerate() {
            let rows = chunk * head_rows..chunk * head_rows + sampling.len();
            let hidden = hidden.narrow(0, rows.start, rows.len())?;
            let logits = self.model.logits(&hidden, &adapters.within(&rows))?;
            let find = |logits: &[f32]| candidates::candidates(logits, mask_id, top_k, sampling);
            let rows = tracing::trace_span!("candidates").in_scope(|| host::read(&logits, find))?;
            for row in rows {
                match row {
                    Ok(row) => output.push_row(row.guess, row.top),
                    Err(reason) => output.push_fault(reason),
                }
            }
        }
        Ok(output)
    }
}

impl Backend for CandleBackend {
    fn bytes_per_position(&self) -> usize {
        Slots::bytes_per_position(self.config())
    }

    fn open_slot(&mut self, slot: SlotId, canvas: usize) -> std::result::Result<(), BackendError> {
        let bytes = self.bytes_per_position() * canvas;
        let Self { model, slots, .. } = self;
        slots.open(slot, model.config(), canvas).map_err(|_| BackendError::OutOfMemory { bytes })
    }

    fn close_slot(&mut self, slot: SlotId) {
        self.slots.close(slot);
        self.parked.take_if(|(owner, _)| *owner == slot);
    }

    fn step(&mut self, batch: &StepBatch) -> std::result::Result<StepOutput, BackendError> {
        let hidden = self.forward(batch).map_err(forward_error)?;
        self.candidates(batch, hidden).map_err(forward_error)
    }

    fn kept_bytes(&self, positions: usize) -> Option<usize> {
        Some(Slots::kept_bytes(self.config(), positions))
    }

    fn keep(
        &mut self,
        prefix: PrefixId,
        slot: SlotId,
        stretch: Range<usize>,
    ) -> std::result::Result<(), BackendError> {
        let bytes = Slots::kept_bytes(self.config(), stretch.len());
        self.slots.keep(prefix, slot, &stretch).map_err(|_| BackendError::OutOfMemory { bytes })
    }

    fn restore(&mut self, prefix: PrefixId, slot: SlotId) -> std::result::Result<(), BackendError> {
        self.slots.restore(prefix, slot).map_err(forward_error)
    }

    fn forget(&mut self, prefix: PrefixId) {
        self.slots.forget(prefix);
    }

    fn drop_adapter(&mut self, adapter: AdapterId) {
        self.adapters.remove(adapter);
    }

    fn layers(&self) -> usize {
        self.config().layers
    }

    fn step_layers(
        &mut self,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> std::result::Result<Option<StepOutput>, BackendError> {
        self.run_layers(batch, layers).map_err(forward_error)
    }
}

/// The packed row of canvas position `position` of `slot`, if it is in this batch.
fn row_of(batch: &StepBatch, slot: SlotId, position: usize) -> Option<usize> {
    let mut first_row = 0;
    for segment in &batch.segments {
        if segment.slot == slot && segment.window.contains(&position) {
            return Some(first_row + position - segment.window.start);
        }
        first_row += segment.window.len();
    }
    None
}

fn row_sampling(segment: &Segment) -> impl Iterator<Item = Option<RowSampling<'_>>> {
    let sampling = segment.sampling.as_ref();
    segment.targets.clone().map(move |position| sampling.map(|sampling| RowSampling { sampling, position }))
}

fn forward_error(error: candle_core::Error) -> BackendError {
    BackendError::Forward(error.to_string())
}
