//! K/V in host memory: one slot per running sequence, `[layers, 2, kv_heads, canvas, head_width]`, and copies of finished
//! stretches of slots that are kept for other sequences.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::Attend;
use crate::engine::batch::{PrefixId, Segment, SlotId};
use crate::model::ModelConfig;
use crate::model::layers::attend;

/// Keys and values of one layer of one slot or one kept stretch, each `[kv_heads, canvas, head_width]`; keys are already rotated.
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

/// What a slot held of some positions.
#[derive(Debug)]
struct Kept {
    start: usize,
    layers: Vec<LayerKv>,
    /// Shifted logits only: the final hidden row `[1, width]` of the last position.
    left: Option<Tensor>,
}

impl Kept {
    fn of(slot: &Slot, stretch: &Range<usize>) -> Result<Self> {
        let copy = |memory: &Tensor| {
            let part = memory.narrow(1, stretch.start, stretch.len())?;
            let own = reserve(part.dims3()?, part.device())?;
            own.slice_set(&part.contiguous()?, 1, 0)?;
            Ok::<_, candle_core::Error>(own)
        };
        let layers = slot.layers.iter();
        let layers =
            layers.map(|layer| Ok(LayerKv { keys: copy(&layer.keys)?, values: copy(&layer.values)? }));
        Ok(Self { start: stretch.start, layers: layers.collect::<Result<_>>()?, left: slot.left.clone() })
    }
}

/// All slots in use, and all that is kept of slots.
#[derive(Debug, Default)]
pub struct Slots {
    open: HashMap<SlotId, Slot>,
    kept: HashMap<PrefixId, Kept>,
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

    /// Bytes that a kept stretch of so many positions takes.
    pub fn kept_bytes(config: &ModelConfig, positions: usize) -> usize {
        let left = if config.shifted() { config.width * size_of::<f32>() } else { 0 };
        positions * Self::bytes_per_position(config) + left
    }

    /// Keep a copy of what a slot holds of a stretch of its canvas, and of the row left of what follows it.
    ///
    /// # Errors
    /// The slot is not open, the stretch is outside its canvas, or there is no memory for it; nothing is kept then.
    pub fn keep(&mut self, prefix: PrefixId, slot: SlotId, stretch: &Range<usize>) -> Result<()> {
        let kept = Kept::of(self.get(slot)?, stretch)?;
        self.kept.insert(prefix, kept);
        Ok(())
    }

    /// Write a kept stretch into a slot, at its place.
    ///
    /// # Errors
    /// It is not kept, the slot is not open, or it does not fit.
    pub fn restore(&mut self, prefix: PrefixId, slot: SlotId) -> Result<()> {
        let unknown = || candle_core::Error::msg(format!("{prefix:?} is not kept"));
        let kept = self.kept.get(&prefix).ok_or_else(unknown)?;
        let slot = self.open.get_mut(&slot).ok_or_else(|| not_open(slot))?;
        for (memory, copy) in std::iter::zip(&slot.layers, &kept.layers) {
            memory.keys.slice_set(&copy.keys, 1, kept.start)?;
            memory.values.slice_set(&copy.values, 1, kept.start)?;
        }
        slot.left.clone_from(&kept.left);
        Ok(())
    }

    /// Give the memory of a kept stretch back.
    pub fn forget(&mut self, prefix: PrefixId) {
        self.kept.remove(&prefix);
    }

    /// A slot in use.
    ///
    /// # Errors
    /// Nobody holds it.
    pub fn get(&self, id: SlotId) -> Result<&Slot> {
        self.open.get(&id).ok_or_else(|| not_open(id))
    }

    /// A slot in use, to change.
    ///
    /// # Errors
    /// Nobody holds it.
    pub fn get_mut(&mut self, id: SlotId) -> Result<&mut Slot> {
        self.open.get_mut(&id).ok_or_else(|| not_open(id))
    }
}

fn not_open(id: SlotId) -> candle_core::Error {
    candle_core::Error::msg(format!("slot {id:?} is not open"))
}

/// Attention of the segments of one pass, each in its own slot.
#[derive(Debug)]
pub struct Segmented<'a> {
    /// In row order.
    pub segments: &'a [Segment],
    /// Where their K/V are.
    pub slots: &'a Slots,
}

impl Attend for Segmented<'_> {
    fn attend(&self, layer: usize, qkv: (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        attend_segments(self.segments, self.slots, layer, qkv)
    }
}

/// Attention of one layer: all segments write their K/V, then each attends to its slot. q, k, v `[rows, heads, h]` →
/// `[rows, H * h]`.
fn attend_segments(
    segments: &[Segment],
    slots: &Slots,
    layer: usize,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
) -> Result<Tensor> {
    let mut row = 0;
    for segment in segments {
        let rows = segment.window.len();
        let slot = slots.get(segment.slot)?;
        slot.write(layer, &segment.window, &k.narrow(0, row, rows)?, &v.narrow(0, row, rows)?)?;
        row += rows;
    }
    row = 0;
    let mut mixed = Vec::with_capacity(segments.len());
    for segment in segments {
        let rows = segment.window.len();
        let (keys, values) = slots.get(segment.slot)?.read(layer, segment.visible)?;
        mixed.push(attend(&q.narrow(0, row, rows)?, &keys, &values)?);
        row += rows;
    }
    Tensor::cat(&mixed, 0)
}
