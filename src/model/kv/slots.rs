//! K/V in host memory: one slot per running sequence, and copies of finished stretches of slots that are kept for other
//! sequences.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use tracing::trace_span;

use super::Attend;
use crate::engine::batch::{PrefixId, Segment, SlotId};
use crate::model::product::attention::{self, KeyValues, Seen};
use crate::model::{ModelConfig, host};

/// Memory of one sequence.
#[derive(Debug)]
pub struct Slot {
    /// Per layer; keys are already rotated. In a cell because a pass, which changes them, has the slots by reference.
    layers: Vec<RefCell<KeyValues>>,
    /// Shifted logits only: the final hidden row `[1, width]` left of the block, from the block's first step.
    pub left: Option<Tensor>,
}

/// What a slot held of some positions.
#[derive(Debug)]
struct Kept {
    start: usize,
    /// Per layer keys and values, each `[positions, kv_heads, head_width]`.
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    /// Shifted logits only: the final hidden row `[1, width]` of the last position.
    left: Option<Tensor>,
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
    /// There is no memory for it.
    pub fn open(&mut self, id: SlotId, config: &ModelConfig, canvas: usize) -> Result<()> {
        let reserve = |_| KeyValues::reserve(config.kv_heads, config.head_width(), canvas).map(RefCell::new);
        let layers = (0..config.layers).map(reserve).collect::<Result<_>>()?;
        self.open.insert(id, Slot { layers, left: None });
        Ok(())
    }

    /// Give a slot's memory back.
    pub fn close(&mut self, id: SlotId) {
        self.open.remove(&id);
    }

    /// Keep a copy of what a slot holds of a stretch of its canvas, and of the row left of what follows it.
    ///
    /// # Errors
    /// The slot is not open, the stretch is outside its canvas, or there is no memory for it; nothing is kept then.
    pub fn keep(&mut self, prefix: PrefixId, slot: SlotId, stretch: &Range<usize>) -> Result<()> {
        let slot = self.get(slot)?;
        let layers = slot.layers.iter().map(|layer| layer.borrow().read(stretch.start, stretch.len()));
        let layers = layers.collect::<Result<_>>()?;
        self.kept.insert(prefix, Kept { start: stretch.start, layers, left: slot.left.clone() });
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
        for (layer, (keys, values)) in std::iter::zip(&mut slot.layers, &kept.layers) {
            layer.get_mut().write(kept.start, keys, values)?;
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

impl Segmented<'_> {
    /// Write the rows' keys and values `[rows, heads, width]` into their slots.
    fn write(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        // Segments of one slot are side by side.
        let sequences: Vec<_> = self.segments.chunk_by(|one, next| one.slot == next.slot).collect();
        let memories = sequences.iter().map(|segments| {
            let memory = &self.slots.get(segments[0].slot)?.layers[layer];
            let taken = || candle_core::Error::msg("segments of one slot are not side by side");
            memory.try_borrow_mut().map_err(|_| taken())
        });
        let mut memories = memories.collect::<Result<Vec<_>>>()?;
        let positions = std::iter::zip(&mut memories, sequences).map(|(memory, segments)| {
            (&mut **memory, segments.iter().flat_map(|segment| segment.window.clone()).collect())
        });
        let positions = positions.collect();
        host::read(k, |k| host::read(v, |v| attention::write(positions, k, v)))??
    }
}

impl Attend for Segmented<'_> {
    fn attend(&self, layer: usize, (q, k, v): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        let (rows, heads, width) = q.dims3()?;
        trace_span!("write").in_scope(|| self.write(layer, k, v))?;
        let _entered = trace_span!("attention").entered();
        let memories =
            self.segments.iter().map(|segment| Ok(self.slots.get(segment.slot)?.layers[layer].borrow()));
        let memories = memories.collect::<Result<Vec<_>>>()?;
        let seen = std::iter::zip(self.segments, &memories).map(|(segment, memory)| Seen {
            memory,
            rows: segment.window.len(),
            visible: segment.visible,
        });
        let seen: Vec<_> = seen.collect();
        let mixed = host::read(q, |q| attention::attend(q, heads, &seen))??;
        Tensor::from_vec(mixed, (rows, heads * width), &Device::Cpu)
    }
}
