//! K/V on a device: one pool of places per layer, of which a slot is some. What a pass writes and reads it finds by index, so
//! all segments share each launch.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::ranges::{Free, Places};
use crate::engine::batch::{PrefixId, SlotId};
use crate::model::ModelConfig;
use crate::model::device::upload::INDICES;
use crate::model::device::{Counts, Op, Span, Upload, Uploaded};

/// Memory of one sequence.
#[derive(Debug)]
pub struct Slot {
    /// Of its canvas, by position.
    places: Vec<usize>,
    held: Places,
    /// Shifted logits only: its row of [`Lefts`], and whether anything was written there.
    left: Option<usize>,
    left_known: bool,
}

impl Slot {
    /// The places of some canvas positions.
    ///
    /// # Errors
    /// They are outside the canvas.
    pub fn places(&self, positions: Range<usize>) -> Result<&[usize]> {
        let canvas = self.places.len();
        let Some(places) = self.places.get(positions.clone()) else {
            bail!("positions {positions:?} are outside a canvas of {canvas}")
        };
        Ok(places)
    }
}

/// What a slot held of some positions, in places of its own.
#[derive(Debug)]
struct Kept {
    start: usize,
    held: Places,
    left: Option<usize>,
}

/// Shifted logits: the final hidden rows left of blocks, one per slot and per kept stretch.
#[derive(Debug)]
struct Lefts {
    /// `[capacity, D]`
    rows: Tensor,
    free: Free,
}

/// All slots and all that is kept of slots.
#[derive(Debug)]
pub struct Pool {
    /// Per layer `[places, 2 * kv_heads * h]`: the keys of a position, rotated, then its values.
    layers: Vec<Tensor>,
    free: Free,
    open: HashMap<SlotId, Slot>,
    kept: HashMap<PrefixId, Kept>,
    lefts: Option<Lefts>,
}

impl Pool {
    /// K/V bytes of one canvas position, held as `dtype`.
    pub fn bytes_per_position(config: &ModelConfig, dtype: DType) -> usize {
        config.layers * 2 * config.kv_width() * dtype.size_in_bytes()
    }

    /// Reserve a pool of so many bytes at most, rounded down to whole positions.
    ///
    /// # Errors
    /// The device has no memory for it.
    pub fn reserve(config: &ModelConfig, dtype: DType, bytes: usize, device: &Device) -> Result<Self> {
        // Indices of elements are u32 in candle's kernels, those of places travel as f32.
        let most = (u32::MAX as usize / (2 * config.kv_width())).min(INDICES);
        let places = (bytes / Self::bytes_per_position(config, dtype)).min(most);
        // A GPU may give no memory of no bytes.
        let shape = (places.max(1), 2 * config.kv_width());
        let layers = (0..config.layers).map(|_| Tensor::zeros(shape, dtype, device));
        let lefts = config.shifted().then(|| Lefts::reserve(16, config.width, device)).transpose()?;
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            free: Free::new(places),
            open: HashMap::new(),
            kept: HashMap::new(),
            lefts,
        })
    }

    /// The pool of one layer.
    pub fn layer(&self, layer: usize) -> &Tensor {
        &self.layers[layer]
    }

    /// Take places for a slot.
    ///
    /// # Errors
    /// There are not enough.
    pub fn open(&mut self, id: SlotId, canvas: usize) -> Result<()> {
        let Some(held) = self.free.take(canvas) else { bail!("no memory for K/V") };
        let left = match self.lefts.as_mut().map(Lefts::take).transpose() {
            Ok(left) => left,
            Err(error) => {
                self.free.give(held);
                return Err(error);
            }
        };
        let places = held.iter().collect();
        self.open.insert(id, Slot { places, held, left, left_known: false });
        Ok(())
    }

    /// Give a slot's places back.
    pub fn close(&mut self, id: SlotId) {
        if let Some(slot) = self.open.remove(&id) {
            self.give(slot.held, slot.left);
        }
    }

    fn give(&mut self, held: Places, left: Option<usize>) {
        self.free.give(held);
        if let (Some(lefts), Some(left)) = (&mut self.lefts, left) {
            lefts.free.give(Places::one(left));
        }
    }

    /// Keep a copy of what a slot holds of a stretch of its canvas, and of the row left of what follows it.
    ///
    /// # Errors
    /// The slot is not open, the stretch is outside its canvas, or there are no places for it; nothing is kept then.
    pub fn keep(
        &mut self,
        prefix: PrefixId,
        slot: SlotId,
        stretch: &Range<usize>,
        counts: &Counts,
    ) -> Result<()> {
        let slot = self.open.get(&slot).ok_or_else(|| not_open(slot))?;
        let (from, from_left) =
            (slot.places(stretch.clone())?.to_vec(), slot.left.filter(|_| slot.left_known));
        let Some(held) = self.free.take(from.len()) else { bail!("no memory for K/V") };
        let left = match (&mut self.lefts, from_left) {
            (Some(lefts), Some(_)) => lefts.take().map(Some),
            _ => Ok(None),
        };
        let left = match left {
            Ok(left) => left,
            Err(error) => {
                self.give(held, None);
                return Err(error);
            }
        };
        let copied = match (&self.lefts, from_left, left) {
            (Some(lefts), Some(from), Some(to)) => lefts.copy(from, to),
            _ => Ok(()),
        };
        match copied.and_then(|()| self.copy(from, held.iter().collect(), counts)) {
            Ok(()) => {
                self.kept.insert(prefix, Kept { start: stretch.start, held, left });
                Ok(())
            }
            Err(error) => {
                self.give(held, left);
                Err(error)
            }
        }
    }

    /// Write a kept stretch into a slot, at its place.
    ///
    /// # Errors
    /// It is not kept, the slot is not open, or it does not fit.
    pub fn restore(&mut self, prefix: PrefixId, slot: SlotId, counts: &Counts) -> Result<()> {
        let unknown = || candle_core::Error::msg(format!("{prefix:?} is not kept"));
        let kept = self.kept.get(&prefix).ok_or_else(unknown)?;
        let open = self.open.get_mut(&slot).ok_or_else(|| not_open(slot))?;
        let to = open.places(kept.start..kept.start + kept.held.count())?.to_vec();
        if let (Some(lefts), Some(from), Some(to)) = (&self.lefts, kept.left, open.left) {
            lefts.copy(from, to)?;
            open.left_known = true;
        }
        self.copy(kept.held.iter().collect(), to, counts)
    }

    /// Give the places of a kept stretch back.
    pub fn forget(&mut self, prefix: PrefixId) {
        if let Some(kept) = self.kept.remove(&prefix) {
            self.give(kept.held, kept.left);
        }
    }

    fn copy(&self, from: Vec<usize>, to: Vec<usize>, counts: &Counts) -> Result<()> {
        let Some(first) = self.layers.first().filter(|_| !from.is_empty()) else { return Ok(()) };
        let mut upload = Upload::default();
        let (from, to) = (upload.indices(from), upload.indices(to));
        let uploaded = upload.send(first.device(), counts)?;
        let (from, to) = (uploaded.indices(&from)?, Destination::new(&uploaded, &to, first.dim(1)?, counts)?);
        for layer in &self.layers {
            counts.add(Op::Select, 1);
            to.write(&layer.index_select(&from, 0)?, layer, counts)?;
        }
        Ok(())
    }

    /// A slot in use.
    ///
    /// # Errors
    /// Nobody holds it.
    pub fn get(&self, id: SlotId) -> Result<&Slot> {
        self.open.get(&id).ok_or_else(|| not_open(id))
    }

    /// Where the row left of a slot's block will be written.
    ///
    /// # Errors
    /// The slot is not open, or the model keeps no such rows.
    pub fn write_left(&mut self, id: SlotId) -> Result<usize> {
        let slot = self.open.get_mut(&id).ok_or_else(|| not_open(id))?;
        slot.left_known = true;
        slot.left.ok_or_else(never_computed)
    }

    /// Where the row left of a slot's block is.
    ///
    /// # Errors
    /// The slot is not open, or the row was never written.
    pub fn read_left(&self, id: SlotId) -> Result<usize> {
        let slot = self.get(id)?;
        slot.left.filter(|_| slot.left_known).ok_or_else(never_computed)
    }

    /// All rows left of blocks, `[capacity, D]`.
    ///
    /// # Errors
    /// The model keeps none.
    pub fn lefts(&self) -> Result<&Tensor> {
        self.lefts.as_ref().map(|lefts| &lefts.rows).ok_or_else(never_computed)
    }
}

impl Lefts {
    fn reserve(capacity: usize, width: usize, device: &Device) -> Result<Self> {
        Ok(Self { rows: Tensor::zeros((capacity, width), DType::F32, device)?, free: Free::new(capacity) })
    }

    /// A row of it, of twice as many if none is free.
    fn take(&mut self) -> Result<usize> {
        if self.free.count() == 0 {
            let (capacity, width) = self.rows.dims2()?;
            let larger = Self::reserve(2 * capacity, width, self.rows.device())?;
            larger.rows.slice_set(&self.rows, 0, 0)?;
            *self = larger;
            self.free.take(capacity);
        }
        let taken = self.free.take(1).and_then(|places| places.iter().next());
        Ok(taken.expect("one is free"))
    }

    fn copy(&self, from: usize, to: usize) -> Result<()> {
        // Of its own memory: a row cannot be copied within one tensor.
        self.rows.slice_set(&self.rows.narrow(0, from, 1)?.force_contiguous()?, 0, to)
    }
}

fn not_open(id: SlotId) -> candle_core::Error {
    candle_core::Error::msg(format!("slot {id:?} is not open"))
}

fn never_computed() -> candle_core::Error {
    candle_core::Error::msg("the row left of the block was never computed")
}

/// Rows of a matrix that are written, as candle's scatter wants them: an index per element.
#[derive(Debug)]
pub struct Destination(Tensor);

impl Destination {
    /// These rows, of so many values.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(uploaded: &Uploaded, rows: &Span, width: usize, counts: &Counts) -> Result<Self> {
        counts.add(Op::Reorder, 1);
        Ok(Self(uploaded.indices(rows)?.unsqueeze(1)?.broadcast_as((rows.len(), width))?.contiguous()?))
    }

    /// Write `[rows, width]` there.
    ///
    /// # Errors
    /// The shapes or the types differ.
    pub fn write(&self, values: &Tensor, to: &Tensor, counts: &Counts) -> Result<()> {
        counts.add(Op::Scatter, 1);
        to.scatter_set(&self.0, values, 0)
    }
}
