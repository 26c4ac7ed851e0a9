//! Weights by name and shape for the network, with a PEFT adapter merged in.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::checkpoint::Checkpoint;
use super::lora::Adapter;
use super::product::{Holding, Packed};
use super::stored::{Format, Stored};
use super::{ModelError, ModelSource};

/// The weights of a network that is being loaded. Tensors are read when asked for.
pub struct Weights {
    checkpoint: Checkpoint,
    adapter: Option<Adapter>,
    holding: Holding,
    device: Device,
}

impl Weights {
    /// Open the checkpoint of `source`; its matrices will be held as `holding` says.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn open(
        source: &ModelSource,
        adapter: Option<Adapter>,
        holding: Holding,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(source, "model")?;
        let holding = holding.of_model(checkpoint.weights(), &checkpoint.formats());
        Ok(Self { checkpoint, adapter, holding, device: device.clone() })
    }

    /// Weights that are in memory already, by their names in a checkpoint.
    ///
    /// # Errors
    /// The device fails.
    pub fn from_tensors(tensors: &BTreeMap<String, Tensor>, device: &Device) -> Result<Self, ModelError> {
        Ok(Self {
            checkpoint: Checkpoint::of_tensors(tensors)?,
            adapter: None,
            holding: Holding::AsStored,
            device: device.clone(),
        })
    }

    /// The small tensor `name` (of a norm, a bias) as f32.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.stored(name, shape)?.to_tensor(&self.device).map_err(|e| ModelError::tensor(name, e))
    }

    /// The tensor `name` as it is stored.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn stored(&self, name: &str, shape: &[usize]) -> Result<Stored, ModelError> {
        let stored = self.checkpoint.get(name)?;
        check_shape(name, stored.shape(), shape)?;
        stored.bytes().expect();
        Ok(stored)
    }

    /// The matrix `{module}.weight` `[outputs, inputs]`, packed for products, with the adapter's change added if it
    /// has one for this module.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn matrix(&mut self, module: &str, shape: [usize; 2]) -> Result<Packed, ModelError> {
        let stored = self.changed(module, shape)?;
        pack(module, &stored, self.holding.of(stored.format()))
    }

    /// The same for the head `[vocab, width]`.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn head(&mut self, module: &str, shape: [usize; 2]) -> Result<Packed, ModelError> {
        let stored = self.changed(module, shape)?;
        pack(module, &stored, self.holding.of_head(stored.format()))
    }

    /// The embedding table as the head.
    ///
    /// # Errors
    /// Names the tensor.
    pub fn tied_head(&self, module: &str, table: &Stored) -> Result<Packed, ModelError> {
        pack(module, table, self.holding.of_head(table.format()))
    }

    fn changed(&mut self, module: &str, shape: [usize; 2]) -> Result<Stored, ModelError> {
        let name = format!("{module}.weight");
        let stored = self.stored(&name, &shape)?;
        let change = match &mut self.adapter {
            Some(adapter) => adapter.take(module, &shape)?,
            None => None,
        };
        let Some(change) = change else { return Ok(stored) };
        let changed =
            stored.to_tensor(&self.device).and_then(|weight| Stored::of_tensor(&(weight + change)?));
        changed.map_err(|e| ModelError::tensor(&name, e))
    }

    /// To be called when the network has all its weights.
    ///
    /// # Errors
    /// The adapter has tensors for modules that the model does not have.
    pub fn finish(self) -> Result<(), ModelError> {
        self.adapter.map_or(Ok(()), Adapter::finish)
    }
}

fn pack(module: &str, weight: &Stored, format: Format) -> Result<Packed, ModelError> {
    let packed = Packed::pack(weight, format).map_err(|e| ModelError::tensor(&format!("{module}.weight"), e));
    weight.bytes().release();
    packed
}

/// # Errors
/// The tensor does not have the shape expected.
pub(super) fn check_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::tensor(name, format!("expected shape {expected:?}, found {found:?}")))
}
