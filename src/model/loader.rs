//! Weights by name and shape for the network.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::checkpoint::Checkpoint;
use super::matrix::Matrix;
use super::product::{Holding, Packed};
use super::stored::{Format, Stored};
use super::{ModelError, ModelSource};

/// The weights of a network that is being loaded. Tensors are read when asked for.
pub struct Weights {
    checkpoint: Checkpoint,
    holding: Holding,
    device: Device,
    /// How matrices are held on the device; `None`: packed for the processor.
    dense: Option<DType>,
}

impl Weights {
    /// Open the checkpoint of `source`; its matrices will be held as `holding` says.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn open(source: &ModelSource, holding: Holding, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(source, "model")?;
        let holding = holding.of_model(checkpoint.weights(), &checkpoint.formats());
        Ok(Self { checkpoint, holding, device: device.clone(), dense: None })
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
            dense: None,
        })
    }

    /// Hold the matrices on the device as they are multiplied there: in f32 where that is asked for or everything is stored so,
    /// else in bf16.
    ///
    /// # Errors
    /// A format is asked for that only the processor multiplies.
    pub fn on_device(self) -> Result<Self, ModelError> {
        let only_f32 = self.checkpoint.formats().iter().all(|format| *format == Format::F32);
        let dense = match self.holding {
            Holding::F32 => DType::F32,
            Holding::Auto | Holding::AsStored if only_f32 => DType::F32,
            Holding::Auto | Holding::AsStored | Holding::Bf16 => DType::BF16,
            Holding::Q8_0 | Holding::Q4k => {
                return Err(ModelError::file("model.weights", "on a device weights are f32 or bf16"));
            }
        };
        Ok(Self { dense: Some(dense), ..self })
    }

    /// How matrices are held on the device; `None`: packed for the processor.
    pub fn dense(&self) -> Option<DType> {
        self.dense
    }

    /// A stored matrix `[rows, width]` as it is held on the device.
    ///
    /// # Errors
    /// Names the tensor, where the device fails.
    pub fn to_device(&self, name: &str, stored: &Stored, dtype: DType) -> Result<Tensor, ModelError> {
        let tensor =
            stored.to_tensor(&Device::Cpu).and_then(|all| all.to_dtype(dtype)?.to_device(&self.device));
        stored.bytes().release();
        tensor.map_err(|e| ModelError::tensor(name, e))
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

    /// The matrix `{module}.weight` `[outputs, inputs]`, ready for products.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn matrix(&self, module: &str, shape: [usize; 2]) -> Result<Matrix, ModelError> {
        let stored = self.stored(&format!("{module}.weight"), &shape)?;
        self.hold(module, &stored, self.holding.of(stored.format()))
    }

    /// The same for the head `[vocab, width]`.
    ///
    /// # Errors
    /// Names the tensor, with the shape expected and found.
    pub fn head(&self, module: &str, shape: [usize; 2]) -> Result<Matrix, ModelError> {
        let stored = self.stored(&format!("{module}.weight"), &shape)?;
        self.hold(module, &stored, self.holding.of_head(stored.format()))
    }

    /// The embedding table as the head.
    ///
    /// # Errors
    /// Names the tensor.
    pub fn tied_head(&self, module: &str, table: &Stored) -> Result<Matrix, ModelError> {
        self.hold(module, table, self.holding.of_head(table.format()))
    }

    fn hold(&self, module: &str, weight: &Stored, format: Format) -> Result<Matrix, ModelError> {
        let name = format!("{module}.weight");
        if let Some(dtype) = self.dense {
            return self.to_device(&name, weight, dtype).map(Matrix::Dense);
        }
        let packed = Packed::pack(weight, format).map_err(|e| ModelError::tensor(&name, e));
        weight.bytes().release();
        packed.map(Matrix::Packed)
    }
}
