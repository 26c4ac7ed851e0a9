//! A scripted block-causal backend whose tokens depend on everything that is visible in a slot, and that says what it
//! was asked to do: whoever writes something else into a slot, or leaves something out, gets another answer.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};

use evotoken::engine::batch::{
    AdapterId, Backend, BackendError, PrefixId, Segment, SlotId, StepBatch, StepOutput,
};

use super::fake;

pub const BYTES_PER_POSITION: usize = 10;
/// What a kept stretch takes beside its positions.
pub const BYTES_PER_PREFIX: usize = 3;

/// What the backend was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    Opened(SlotId, usize),
    Closed(SlotId),
    /// Windows that were fed in, of a pass that went well.
    Stepped(Vec<(SlotId, Range<usize>)>),
    /// Some layers of a step, but not the last one.
    Began(SlotId),
    Kept(PrefixId, SlotId, Range<usize>),
    Restored(PrefixId, SlotId),
    Forgot(PrefixId),
    Dropped(AdapterId),
}

pub struct ContentBackend {
    did: Sender<Did>,
    /// Taken before every tick; a dropped one lets all pass.
    permits: Receiver<()>,
    slots: HashMap<SlotId, Vec<u64>>,
    kept: HashMap<PrefixId, (usize, Vec<u64>)>,
    layers: usize,
    dropped: HashSet<AdapterId>,
    /// Slots of larger canvases are refused as long as something is kept.
    tight_above: usize,
}

impl ContentBackend {
    pub fn new(layers: usize) -> (Self, Sender<()>, Receiver<Did>) {
        let ((did, told), (permit, permits)) = (channel(), channel());
        let (slots, kept, dropped) = (HashMap::new(), HashMap::new(), HashSet::new());
        let backend = Self { did, permits, slots, kept, layers, dropped, tight_above: usize::MAX };
        (backend, permit, told)
    }

    #[must_use]
    pub fn tight_above(self, canvas: usize) -> Self {
        Self { tight_above: canvas, ..self }
    }

    fn tell(&self, did: Did) {
        // A test that stopped listening does not care.
        let _ = self.did.send(did);
    }

    /// What a failed or half-done pass leaves behind.
    fn spoil(&mut self, batch: &StepBatch) {
        for segment in &batch.segments {
            self.slots.get_mut(&segment.slot).unwrap()[segment.window.clone()].fill(0xBAD);
        }
    }

    /// Write the windows; a position holds a hash of all that it sees.
    fn write(&mut self, batch: &StepBatch) {
        let mut row = 0;
        for Segment { slot, adapter, window, visible, .. } in &batch.segments {
            assert!(adapter.is_none_or(|id| !self.dropped.contains(&id)), "{adapter:?} is gone");
            assert_eq!(window.end, *visible, "nothing is visible behind a window of a block-causal model");
            let memory = self.slots.get_mut(slot).unwrap();
            let mut seen = DefaultHasher::new();
            (adapter, &memory[..window.start]).hash(&mut seen);
            for _ in window.clone() {
                batch.row(row).iter().for_each(|(id, weight)| (id, weight.to_bits()).hash(&mut seen));
                row += 1;
            }
            for position in window.clone() {
                let mut seen = seen.clone();
                position.hash(&mut seen);
                memory[position] = seen.finish();
            }
        }
    }

    fn read(&self, batch: &StepBatch) -> StepOutput {
        let mut output = StepOutput { top_k: batch.top_k, ..StepOutput::default() };
        let no_numbers = |slot| {
            let of_slot = batch.segments.iter().filter(|s| s.slot == slot).flat_map(|s| s.targets.clone());
            of_slot.count() > 0 && self.slots[&slot].first() == Some(&NO_NUMBERS)
        };
        for segment in &batch.segments {
            for position in segment.targets.clone() {
                if no_numbers(segment.slot) {
                    output.push_fault("asked for no number".to_owned());
                    continue;
                }
                let mut draw = DefaultHasher::new();
                self.slots[&segment.slot][position].hash(&mut draw);
                if let Some(sampling) = segment.sampling.as_ref().filter(|s| s.temperature > 0.0) {
                    (sampling.seed, sampling.choice, sampling.step).hash(&mut draw);
                }
                let draw = draw.finish();
                let id = segment.sampling.as_ref().and_then(|s| s.given);
                let adjustment = segment.sampling.as_ref().and_then(|s| s.adjustment.as_ref());
                let ends =
                    draw.is_multiple_of(97) && adjustment.is_none_or(|a| position >= a.excluded_before);
                let id = id.unwrap_or(if ends { fake::EOS } else { 2 + (draw % 80) as u32 });
                let others = (1..batch.top_k as u32).map(|rank| (2 + (draw % 71) as u32 + rank, 0.01));
                let best = (id, 0.5 + (draw % 1000) as f32 / 4000.0);
                output.push_row(best, std::iter::once(best).chain(others));
            }
        }
        output
    }
}

/// Held by the first position of a slot whose rows come back as no numbers.
const NO_NUMBERS: u64 = 0xDEAD;

impl Backend for ContentBackend {
    fn bytes_per_position(&self) -> usize {
        BYTES_PER_POSITION
    }

    fn open_slot(&mut self, slot: SlotId, canvas: usize) -> Result<(), BackendError> {
        if canvas > self.tight_above && !self.kept.is_empty() {
            return Err(BackendError::OutOfMemory { bytes: canvas * BYTES_PER_POSITION });
        }
        self.slots.insert(slot, vec![0; canvas]);
        self.tell(Did::Opened(slot, canvas));
        Ok(())
    }

    fn close_slot(&mut self, slot: SlotId) {
        self.slots.remove(&slot);
        self.tell(Did::Closed(slot));
    }

    fn step(&mut self, batch: &StepBatch) -> Result<StepOutput, BackendError> {
        // Without a sender ticks run freely.
        let _ = self.permits.recv();
        let fed = |token| batch.pairs.iter().any(|(id, _)| *id == token);
        if fed(fake::PANIC) || fed(fake::FAIL) {
            self.spoil(batch);
        }
        if fed(fake::PANIC) {
            // Unlike panic!, this prints nothing.
            resume_unwind(Box::new("asked to panic"));
        }
        if fed(fake::FAIL) {
            return Err(BackendError::Forward("asked to fail".to_owned()));
        }
        self.write(batch);
        let mut row = 0;
        for segment in &batch.segments {
            let mut rows = row..row + segment.window.len();
            row = rows.end;
            if rows.any(|row| batch.row(row).iter().any(|(id, _)| *id == fake::NO_NUMBERS)) {
                self.slots.get_mut(&segment.slot).unwrap()[0] = NO_NUMBERS;
            }
        }
        self.tell(Did::Stepped(batch.segments.iter().map(|s| (s.slot, s.window.clone())).collect()));
        Ok(self.read(batch))
    }

    fn kept_bytes(&self, positions: usize) -> Option<usize> {
        Some(positions * BYTES_PER_POSITION + BYTES_PER_PREFIX)
    }

    fn keep(&mut self, prefix: PrefixId, slot: SlotId, stretch: Range<usize>) -> Result<(), BackendError> {
        let content = self.slots[&slot][stretch.clone()].to_vec();
        assert!(!content.contains(&NO_NUMBERS), "a prefix that makes no sense is kept");
        assert!(self.kept.insert(prefix, (stretch.start, content)).is_none(), "{prefix:?} is in use");
        self.tell(Did::Kept(prefix, slot, stretch));
        Ok(())
    }

    fn restore(&mut self, prefix: PrefixId, slot: SlotId) -> Result<(), BackendError> {
        let (start, content) = &self.kept[&prefix];
        self.slots.get_mut(&slot).unwrap()[*start..start + content.len()].copy_from_slice(content);
        self.tell(Did::Restored(prefix, slot));
        Ok(())
    }

    fn forget(&mut self, prefix: PrefixId) {
        assert!(self.kept.remove(&prefix).is_some(), "{prefix:?} is not kept");
        self.tell(Did::Forgot(prefix));
    }

    fn drop_adapter(&mut self, adapter: AdapterId) {
        assert!(self.dropped.insert(adapter), "{adapter:?} is dropped twice");
        assert!(self.kept.keys().all(|id| id.adapter != Some(adapter)), "what {adapter:?} computed is kept");
        self.tell(Did::Dropped(adapter));
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn step_layers(
        &mut self,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> Result<Option<StepOutput>, BackendError> {
        if layers.end < self.layers {
            let _ = self.permits.recv();
            self.spoil(batch);
            self.tell(Did::Began(batch.segments[0].slot));
            return Ok(None);
        }
        self.step(batch).map(Some)
    }
}
