//! K/V memory: one slot per running sequence, `[layers, 2, kv_heads, canvas, head_width]`.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::ModelConfig;
use crate::engine::batch::SlotId;

/// Keys and values of one layer of one slot, each `[kv_heads, canvas, head_width]`; keys are already rotated.
#[derive(Debug)]
struct LayerKv {
    keys: Tensor,
    values: Tensor,
}

/// Memory of one sequence.
#[derive(Debug)]
pub struct Slot {
    layers: Vec<LayerKv>,
    /// Shifted logits only: the final hidden row `[1, width]` left of the block, from the block's first step.
    pub left: Option<Tensor>,
}

impl Slot {
    /// Write keys and values `[rows, kv_heads, head_width]` of a window.
    ///
    /// # Errors
    /// The window is outside the canvas.
    pub fn write(&self, layer: usize, window: &Range<usize>, keys: &Tensor, values: &Tensor) -> Result<()> {
        let memory = &self.layers[layer];
        memory.keys.slice_set(&keys.transpose(0, 1)?.contiguous()?, 1, window.start)?;
        memory.values.slice_set(&values.transpose(0, 1)?.contiguous()?, 1, window.start)
    }

    /// Keys and values of the positions `[0, visible)`, each `[kv_heads, visible, head_width]`. No copy.
    ///
    /// # Errors
    /// `visible` is beyond the canvas.
    pub fn read(&self, layer: usize, visible: usize) -> Result<(Tensor, Tensor)> {
        let memory = &self.layers[layer];
        Ok((memory.keys.narrow(1, 0, visible)?, memory.values.narrow(1, 0, visible)?))
    }
}

/// Zeros of this shape. On the CPU candle's own would end the process if there is no memory for them.
fn reserve(shape: (usize, usize, usize), device: &Device) -> Result<Tensor> {
    if !device.is_cpu() {
        return Tensor::zeros(shape, DType::F32, device);
    }
    let count = [shape.1, shape.2].into_iter().try_fold(shape.0, usize::checked_mul);
    let mut memory: Vec<f32> = Vec::new();
    let reserved = count.and_then(|count| memory.try_reserve_exact(count).ok().map(|()| count));
    memory.resize(reserved.ok_or_else(|| candle_core::Error::msg("no memory for K/V"))?, 0.0);
    Tensor::from_vec(memory, shape, device)
}

/// All slots in use.
#[derive(Debug, Default)]
pub struct Slots {
    open: HashMap<SlotId, Slot>,
}

impl Slots {
    /// K/V bytes of one canvas position.
    pub fn bytes_per_position(config: &ModelConfig) -> usize {
        config.layers * 2 * config.kv_width() * size_of::<f32>()
    }

    /// Reserve a slot.
    ///
    /// # Errors
    /// The device has no memory for it.
    pub fn open(&mut self, id: SlotId, config: &ModelConfig, canvas: usize, device: &Device) -> Result<()> {
        let shape = (config.kv_heads, canvas, config.head_width());
        let zeros = || reserve(shape, device);
        let layers = (0..config.layers)
            .map(|_| Ok(LayerKv { keys: zeros()?, values: zeros()? }))
            .collect::<Result<Vec<_>>>()?;
        self.open.insert(id, Slot { layers, left: None });
        Ok(())
    }

    /// Give a slot's memory back.
    pub fn close(&mut self, id: SlotId) {
        self.open.remove(&id);
    }

    /// A slot in use.
    ///
    /// # Errors
    /// Nobody holds it.
    pub fn get(&self, id: SlotId) -> Result<&Slot> {
        self.open.get(&id).ok_or_else(|| candle_core::Error::msg(format!("slot {id:?} is not open")))
    }

    /// A slot in use, to change.
    ///
    /// # Errors
    /// Nobody holds it.
    pub fn get_mut(&mut self, id: SlotId) -> Result<&mut Slot> {
        self.open.get_mut(&id).ok_or_else(|| candle_core::Error::msg(format!("slot {id:?} is not open")))
    }
}
