//! Adapters beside a model's weights: y = W x + b + (lora_alpha / r) B (A x) for the rows of their own sequences.
//!
//! W is applied once per pass to all rows, whatever their adapters. Then each adapter's rows are gathered, go through its two
//! small matrices, and what comes out is added. These products are those of `model::product`, so a row's result depends on
//! no other row.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

use candle_core::{DType, Device, Result, Tensor};

use super::device::{Counts, Op};
use super::lora::{self, Change};
use super::matrix::Matrix;
use super::names::{Names, Part};
use super::product::Packed;
use super::{ModelConfig, ModelError, ModelSource};
use crate::engine::batch::{AdapterId, StepBatch};

/// An adapter, ready for rows.
#[derive(Debug)]
pub struct PackedAdapter {
    /// By [`Part::index`]; `None`: the module is as it was.
    modules: Vec<Option<Module>>,
}

/// What an adapter does beside a module.
#[derive(Debug)]
pub struct Module {
    /// A.
    down: Matrix,
    /// B.
    up: Matrix,
    /// lora_alpha / r.
    scaling: f64,
}

impl PackedAdapter {
    fn load(
        source: &ModelSource,
        config: &ModelConfig,
        (device, dense): (&Device, Option<DType>),
    ) -> std::result::Result<Self, ModelError> {
        let mut changes = lora::Adapter::open(source)?;
        let names = Names::of(config.family);
        let mut modules = Vec::new();
        for part in Part::all(config.layers) {
            // A tied head is the embedding table, which no adapter of linear modules changes.
            let is_there = part != Part::Head || !config.tied_head;
            let path = names.path(part);
            let (out, width) = part.shape(config);
            let change = if is_there { changes.take(&path, &[out, width], device)? } else { None };
            let packed = change.map(|change| Module::new(&change, dense)).transpose();
            modules.push(packed.map_err(|e| ModelError::tensor(&path, e))?);
        }
        changes.finish()?;
        Ok(Self { modules })
    }

    /// What it does beside a module; `None`: nothing.
    pub(super) fn module(&self, part: Part) -> Option<&Module> {
        self.modules[part.index()].as_ref()
    }
}

impl Module {
    fn new(change: &Change, dense: Option<DType>) -> Result<Self> {
        let Change { down, up, scaling } = change;
        let matrix = |weight: &Tensor| {
            Ok::<_, candle_core::Error>(match dense {
                Some(dtype) => Matrix::Dense(weight.to_dtype(dtype)?),
                None => Matrix::Packed(Packed::new(weight)?),
            })
        };
        Ok(Self { down: matrix(down)?, up: matrix(up)?, scaling: *scaling })
    }

    /// Count a pass of rows through it.
    pub(super) fn count(&self, counts: &Counts) {
        self.down.count(counts);
        counts.add(Op::Elementwise, 1);
        self.up.count(counts);
    }

    /// x `[rows, in]` → `[rows, out]`, to be added.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.up.product(&(self.down.product(x)? * self.scaling)?)
    }
}

/// The adapters of a backend.
#[derive(Debug)]
pub struct Adapters {
    here: HashMap<AdapterId, PackedAdapter>,
    /// Loaded elsewhere, to be taken in.
    arriving: Receiver<(AdapterId, PackedAdapter)>,
}

/// Brings adapters into a backend's memory, on a thread that may wait for files: the engine's must not.
pub trait AdapterLoader: std::fmt::Debug + Send + Sync {
    /// Read a PEFT LoRA folder, to be asked for by a number that no other adapter of the backend had. From now on the backend
    /// has it; the lease of this number ([`crate::engine::EngineHandle::new_adapter`]) says for how long.
    ///
    /// # Errors
    /// Names the file or tensor that is missing, or that does not fit the model. Nothing is held then.
    fn load(&self, id: AdapterId, source: &ModelSource) -> std::result::Result<(), ModelError>;
}

/// Loads adapters for a backend, on whatever thread.
#[derive(Debug)]
pub struct PackedLoader {
    config: ModelConfig,
    device: Device,
    /// How matrices are held there; `None`: packed for the processor.
    dense: Option<DType>,
    to: Sender<(AdapterId, PackedAdapter)>,
}

impl AdapterLoader for PackedLoader {
    fn load(&self, id: AdapterId, source: &ModelSource) -> std::result::Result<(), ModelError> {
        let adapter = PackedAdapter::load(source, &self.config, (&self.device, self.dense))?;
        // On a GPU each thread has a stream of its own: what this one asked for must be done before another one's ticks use it.
        self.device.synchronize().map_err(|e| ModelError::tensor("of an adapter", e))?;
        // A backend that is gone needs no adapters.
        let _ = self.to.send((id, adapter));
        Ok(())
    }
}

impl Adapters {
    /// None yet, and who brings some for a model like this, in `dense` matrices on the device or packed for the processor.
    pub fn new(config: &ModelConfig, device: &Device, dense: Option<DType>) -> (Self, PackedLoader) {
        let (to, arriving) = channel();
        let (config, device) = (config.clone(), device.clone());
        (Self { here: HashMap::new(), arriving }, PackedLoader { config, device, dense, to })
    }

    /// Take in what was loaded. An adapter's number is told after it was sent, so it is there when it is first asked for.
    pub fn receive(&mut self) {
        self.here.extend(self.arriving.try_iter());
    }

    /// Give an adapter's memory back.
    pub fn remove(&mut self, id: AdapterId) {
        self.receive();
        self.here.remove(&id);
    }

    /// Which packed rows of a batch go through which adapter.
    ///
    /// # Errors
    /// An adapter is not here.
    pub fn rows(&self, batch: &StepBatch) -> Result<AdapterRows<'_>> {
        self.grouped(batch.segments.iter().map(|segment| (segment.adapter, segment.window.len())))
    }

    /// The same of the rows whose logits are needed.
    ///
    /// # Errors
    /// An adapter is not here.
    pub fn needed_rows(&self, batch: &StepBatch) -> Result<AdapterRows<'_>> {
        self.grouped(batch.segments.iter().map(|segment| (segment.adapter, segment.targets.len())))
    }

    fn grouped(&self, runs: impl Iterator<Item = (Option<AdapterId>, usize)>) -> Result<AdapterRows<'_>> {
        let mut groups: Vec<(AdapterId, Vec<Range<usize>>)> = Vec::new();
        let mut row = 0;
        for (adapter, rows) in runs {
            let run = row..row + rows;
            row = run.end;
            let Some(id) = adapter.filter(|_| rows > 0) else { continue };
            let at = groups.iter().position(|(other, _)| *other == id).unwrap_or_else(|| {
                groups.push((id, Vec::new()));
                groups.len() - 1
            });
            match groups[at].1.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => groups[at].1.push(run),
            }
        }
        let found = groups.into_iter().map(|(id, runs)| Ok((self.get(id)?, runs)));
        Ok(AdapterRows(found.collect::<Result<_>>()?))
    }

    /// An adapter.
    ///
    /// # Errors
    /// It is not here.
    pub fn get(&self, id: AdapterId) -> Result<&PackedAdapter> {
        self.here.get(&id).ok_or_else(|| candle_core::Error::msg(format!("{id:?} is not loaded")))
    }
}

/// What the adapters of a pass's rows do beside a module.
pub trait Adapt {
    /// Add to y `[rows, out]`, what a module made of x `[rows, in]` and nobody else holds, what the rows' adapters say. Returns
    /// how many adapters that were, too.
    ///
    /// # Errors
    /// The device fails.
    fn add(&self, part: Part, x: &Tensor, y: Tensor) -> Result<(Tensor, u64)>;
}

/// Rows of a pass by their adapters: per adapter its runs of rows, ascending. Rows of no adapter are not named.
#[derive(Debug)]
pub struct AdapterRows<'a>(Vec<(&'a PackedAdapter, Vec<Range<usize>>)>);

impl AdapterRows<'_> {
    /// Those within `rows`, counted from its start.
    pub fn within(&self, rows: &Range<usize>) -> Self {
        let clip = |run: &Range<usize>| {
            let (start, end) = (run.start.max(rows.start), run.end.min(rows.end));
            (start < end).then(|| start - rows.start..end - rows.start)
        };
        let clipped = self.0.iter().map(|(adapter, runs)| (*adapter, runs.iter().filter_map(clip).collect()));
        Self(clipped.filter(|(_, runs): &(_, Vec<_>)| !runs.is_empty()).collect())
    }
}

impl Adapt for AdapterRows<'_> {
    fn add(&self, part: Part, x: &Tensor, y: Tensor) -> Result<(Tensor, u64)> {
        let mut applied = 0;
        for (adapter, runs) in &self.0 {
            let Some(module) = &adapter.modules[part.index()] else { continue };
            let own: Vec<Tensor> =
                runs.iter().map(|run| x.narrow(0, run.start, run.len())).collect::<Result<_>>()?;
            let change = module.forward(&Tensor::cat(&own, 0)?)?;
            let mut row = 0;
            for run in runs {
                let sum = (y.narrow(0, run.start, run.len())? + change.narrow(0, row, run.len())?)?;
                // y is new, and nobody else's.
                y.slice_set(&sum, 0, run.start)?;
                row += run.len();
            }
            applied += 1;
        }
        Ok((y, applied))
    }
}
