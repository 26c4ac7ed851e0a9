//! Weights by name and shape for the network.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::checkpoint::Checkpoint;
use super::product::{Holding, Packed};
use super::stored::{Format, Stored};
use super::{ModelError, ModelSource};

/// The weights of a network that is being loaded. Tensors are read when asked for.
pub struct Weights {
    checkpoint: Checkpoint,
    holding: Holding,
    device: Device,
}

impl Weights {
    /// Open the checkpoint of `source`; its matrices will be held as `holding` says.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn open(source: &ModelSource, holding: Holding, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(source, "model")?;
        let holding = holding.of_model(checkpoint.weights(), &checkpoint.formats());
        Ok(Self { checkpoint, holding, device: device.clone() })
    }

    /// Weights that are in memory already, by their names in a checkpoint.
    ///
    /// # Errors
    /// The device fails.
    pub fn from_tensors(tensors: &BTreeMap<String, Tensor>, device: &Device) -> Result<Self, ModelError> {
        Ok(Self {
            checkpoint: Checkpoint::of_tensors(tensors)?,
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
        let stored = self.checkpoint.shaped(name, shape)?;
        stored.bytes().expect();
        Ok(stored)
    }

    /// The matrix `{module}.weight` `[outputs, inputs]`, packed for products.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn matrix(&self, module: &str, shape: [usize; 2]) -> Result<Packed, ModelError> {
        let stored = self.stored(&format!("{module}.weight"), &shape)?;
        pack(module, &stored, self.holding.of(stored.format()))
    }

    /// The same for the head `[vocab, width]`.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn head(&self, module: &str, shape: [usize; 2]) -> Result<Packed, ModelError> {
        let stored = self.stored(&format!("{module}.weight"), &shape)?;
        pack(module, &stored, self.holding.of_head(stored.format()))
    }

    /// The embedding table as the head.
    ///
    /// # Errors
    /// Names the tensor.
    pub fn tied_head(&self, module: &str, table: &Stored) -> Result<Packed, ModelError> {
        pack(module, table, self.holding.of_head(table.format()))
    }
}

fn pack(module: &str, weight: &Stored, format: Format) -> Result<Packed, ModelError> {
    let packed = Packed::pack(weight, format).map_err(|e| ModelError::tensor(&format!("{module}.weight"), e));
    weight.bytes().release();
    packed
}
