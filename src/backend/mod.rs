//! The engine's [`Backend`] over candle: one forward pass over the packed rows, then candidates of the needed rows.

pub mod candidates;
pub mod device;
mod device_tick;
mod filters;
mod host_tick;
mod needed;
mod reduction;
mod tick;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::engine::KV_BYTES;
use crate::engine::batch::{AdapterId, Backend, BackendError, PrefixId, SlotId, StepBatch, StepOutput};
use crate::model::adapters::{AdapterLoader, Adapters, PackedLoader};
use crate::model::device::Tally;
use crate::model::kv::gathered::Ragged;
use crate::model::kv::pool::Pool;
use crate::model::loader::Weights;
use crate::model::product::Holding;
use crate::model::{ModelConfig, ModelError, ModelSource, Transformer};
use device::{DeviceChoice, Placement};
use device_tick::DeviceTick;
use host_tick::HostTick;
use tick::{Network, Tick};

/// A model on a device, with its adapters and the K/V slots of its sequences.
#[derive(Debug)]
pub struct CandleBackend {
    model: Transformer,
    adapters: Adapters,
    loader: Arc<PackedLoader>,
    tick: Box<dyn Tick>,
    /// The memory of its pool of K/V, in bytes, where it has one.
    pool_bytes: Option<usize>,
}

/// K/V memory on a device, and how it is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolChoice {
    /// Its bytes; `None`: on a GPU what the weights leave free.
    pub bytes: Option<usize>,
    /// How segments attend to it; `None`: the best way that the device has.
    pub ragged: Option<Ragged>,
}

impl From<usize> for PoolChoice {
    /// Of so many bytes.
    fn from(bytes: usize) -> Self {
        Self { bytes: Some(bytes), ragged: None }
    }
}

impl CandleBackend {
    /// Load a model whose ticks run in host memory.
    ///
    /// # Errors
    /// Names the file or tensor that is missing or unusable, or says that the device has no host memory.
    pub fn load(
        source: &ModelSource,
        placement: impl Into<Placement>,
    ) -> std::result::Result<Self, ModelError> {
        let Placement { device, holding } = placement.into();
        let device = device.open()?;
        if !device.is_cpu() {
            return Err(ModelError::file("model.device", "K/V on a device need a pool of a size"));
        }
        let config = ModelConfig::load(source)?;
        let weights = Weights::open(source, holding, &device)?;
        Ok(Self::new(Transformer::load(config, &weights, &device)?, &weights, Box::new(HostTick::default())))
    }

    /// Load a model whose ticks run on their device from one upload to one download, with a pool for the K/V of all sequences
    /// and all that is kept of them. The device may be the CPU: slower than [`Self::load`], by the same operations as on any
    /// other device.
    ///
    /// # Errors
    /// Names the file or tensor that is missing or unusable, or says that the device has not so much memory, or not the
    /// kernel that was asked for.
    pub fn load_pooled(
        source: &ModelSource,
        placement: impl Into<Placement>,
        pool: impl Into<PoolChoice>,
    ) -> std::result::Result<Self, ModelError> {
        let Placement { device, holding } = placement.into();
        let device = device.open()?;
        Self::pooled(source, holding, &device, pool.into())
    }

    /// Load a model as it is served: on the CPU as [`Self::load`] does, on a GPU as [`Self::load_pooled`], with as much K/V
    /// memory as is asked for and there is, else what the weights leave free.
    ///
    /// # Errors
    /// As these, and the device is not there.
    pub fn load_to_serve(
        source: &ModelSource,
        placement: impl Into<Placement>,
        kv_bytes: Option<usize>,
    ) -> std::result::Result<Self, ModelError> {
        let Placement { device, holding } = placement.into();
        let device = device.open()?;
        if device.is_cpu() {
            return Self::load(source, Placement { device: DeviceChoice::Cpu, holding });
        }
        let loaded = Self::pooled(source, holding, &device, PoolChoice { bytes: kv_bytes, ragged: None });
        loaded.map_err(|error| device::explained(&device, error))
    }

    /// The weights first: what they leave is for K/V.
    fn pooled(
        source: &ModelSource,
        holding: Holding,
        device: &Device,
        PoolChoice { bytes, ragged }: PoolChoice,
    ) -> std::result::Result<Self, ModelError> {
        let config = ModelConfig::load(source)?;
        let weights = Weights::open(source, holding, device)?.on_device()?;
        let model = Transformer::load(config, &weights, device)?;
        let dtype = weights.dense().unwrap_or(DType::F32);
        let ragged = Ragged::on(device, dtype, model.config().head_width(), ragged)
            .map_err(|reason| ModelError::file("model.device", reason))?;
        // What was freed is free when it is counted.
        device::settle(device)?;
        let kv_bytes = device::kv_budget(device, bytes);
        if !device.is_cpu() && kv_bytes < Pool::bytes_per_position(model.config(), dtype) {
            return Err(device::gpu_failed("beside the weights there is no memory for K/V"));
        }
        let tick = DeviceTick::new(model.config(), (dtype, ragged), kv_bytes, device);
        let no_memory = |e| ModelError::file("K/V memory", format!("{kv_bytes} bytes cannot be had: {e}"));
        let tick = Box::new(tick.map_err(no_memory)?);
        device::settle(device)?;
        Ok(Self { pool_bytes: Some(kv_bytes), ..Self::new(model, &weights, tick) })
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
        Ok(Self::new(Transformer::load(config, &weights, &device)?, &weights, Box::new(HostTick::default())))
    }

    fn new(model: Transformer, weights: &Weights, tick: Box<dyn Tick>) -> Self {
        let (adapters, loader) = Adapters::new(model.config(), model.device(), weights.dense());
        Self { model, adapters, loader: Arc::new(loader), tick, pool_bytes: None }
    }

    /// What ticks asked of the device so far.
    pub fn tally(&self) -> Tally {
        self.model.counts().tally()
    }

    /// Who runs a tick, and what it goes through.
    fn parts(&mut self) -> (&mut dyn Tick, Network<'_>) {
        self.adapters.receive();
        (&mut *self.tick, Network { model: &self.model, adapters: &self.adapters })
    }

    /// Who brings adapters into this backend, also while it runs elsewhere.
    pub fn adapter_loader(&self) -> Arc<dyn AdapterLoader> {
        self.loader.clone()
    }

    /// Sizes and constants of the model.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// K/V memory that it may take, in bytes: what was asked for, unless it has a pool of a size.
    pub fn kv_budget(&self, asked: Option<usize>) -> usize {
        self.pool_bytes.or(asked).unwrap_or(KV_BYTES)
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
        let (tick, network) = self.parts();
        let mut rows = tick.logits(&network, batch).map_err(forward_error)?.into_iter();
        Ok(batch.segments.iter().map(|segment| rows.by_ref().take(segment.targets.len()).collect()).collect())
    }
}

impl Backend for CandleBackend {
    fn bytes_per_position(&self) -> usize {
        self.tick.bytes_per_position(self.config())
    }

    fn open_slot(&mut self, slot: SlotId, canvas: usize) -> std::result::Result<(), BackendError> {
        let bytes = self.bytes_per_position() * canvas;
        let Self { model, tick, .. } = self;
        tick.open(slot, model.config(), canvas).map_err(|_| BackendError::OutOfMemory { bytes })
    }

    fn close_slot(&mut self, slot: SlotId) {
        self.tick.close(slot);
    }

    fn step(&mut self, batch: &StepBatch) -> std::result::Result<StepOutput, BackendError> {
        let layers = 0..self.config().layers;
        let output = self.step_layers(batch, layers)?;
        output.ok_or_else(|| BackendError::Forward("the last layer gave nothing".to_owned()))
    }

    fn kept_bytes(&self, positions: usize) -> Option<usize> {
        let config = self.config();
        let left = if config.shifted() { config.width * size_of::<f32>() } else { 0 };
        Some(positions * self.bytes_per_position() + left)
    }

    fn keep(
        &mut self,
        prefix: PrefixId,
        slot: SlotId,
        stretch: Range<usize>,
    ) -> std::result::Result<(), BackendError> {
        let bytes = self.bytes_per_position() * stretch.len();
        let (tick, network) = self.parts();
        tick.keep(&network, prefix, slot, &stretch).map_err(|_| BackendError::OutOfMemory { bytes })
    }

    fn restore(&mut self, prefix: PrefixId, slot: SlotId) -> std::result::Result<(), BackendError> {
        let (tick, network) = self.parts();
        tick.restore(&network, prefix, slot).map_err(forward_error)
    }

    fn forget(&mut self, prefix: PrefixId) {
        self.tick.forget(prefix);
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
        let (tick, network) = self.parts();
        tick.run(&network, batch, layers).map_err(forward_error)
    }
}

fn forward_error(error: candle_core::Error) -> BackendError {
    BackendError::Forward(error.to_string())
}
