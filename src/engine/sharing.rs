//! Finished prefixes of block-causal sequences, shared between sequences: computed once, copied into the slots of those
//! that begin alike.
//!
//! What is kept lives within the K/V memory that slots leave free, and within a bound of its own. A sequence that
//! starts goes before it: prefixes make room for its slot. Copies are in memory of their own, so no step, failed or not,
//! changes what is kept; only what a step that went well wrote is ever kept.

use std::collections::HashMap;
use std::sync::Arc;

use super::EngineLimits;
use super::batch::{AdapterId, Backend, PrefixId};
use super::prefix::PrefixTree;
use super::sequence::Sequence;
use crate::decode::StepPlan;
use crate::telemetry::metrics::Metrics;

#[derive(Debug)]
pub(super) struct Sharing {
    tree: PrefixTree,
    /// Most bytes to keep, whatever is free; 0: nothing is looked for or kept.
    limit: usize,
    metrics: Arc<Metrics>,
}

impl Sharing {
    pub fn new(limits: &EngineLimits, metrics: Arc<Metrics>) -> Self {
        Self { tree: PrefixTree::new(), limit: limits.prefix_cache_bytes, metrics }
    }

    /// Write kept prefixes into the slots of the sequences that would compute them next.
    pub fn fill<B: Backend>(&mut self, backend: &mut B, running: &mut [Sequence]) {
        if self.limit == 0 {
            return;
        }
        for sequence in running {
            // One that is on its way to compute it goes on.
            let Some((before, stretch)) = sequence.computes().filter(|_| sequence.long.is_none()) else {
                continue;
            };
            let Some(id) = self.tree.find(before, stretch) else { continue };
            let tokens = stretch.len();
            if let Err(error) = backend.restore(id, sequence.slot()) {
                // It is computed as if it had not been kept.
                tracing::error!(%error, "a kept prefix could not be used; all are given up");
                self.make_room(backend, 0);
                return;
            }
            sequence.restored(id);
            self.metrics.prefix_queried(tokens, true);
        }
    }

    /// Per sequence which stretch it would compute next for others to use as well: those with the same number would
    /// compute the same. `room`: bytes that slots leave free.
    pub fn alike<'a, B: Backend>(
        &self,
        backend: &B,
        running: &'a [Sequence],
        room: usize,
    ) -> Vec<Option<usize>> {
        if self.limit == 0 {
            return vec![None; running.len()];
        }
        let mut numbers: HashMap<(PrefixId, &[u32]), usize> = HashMap::new();
        let mut number = |sequence: &'a Sequence| {
            let (before, stretch) = sequence.computes()?;
            let bytes = self.bytes(backend, stretch)?;
            // What will not be kept is nothing to wait for.
            let kept = self.tree.has_place(before, bytes, self.limit.min(room));
            let next = numbers.len();
            kept.then(|| *numbers.entry((before, stretch)).or_insert(next))
        };
        running.iter().map(&mut number).collect()
    }

    /// A step went well: keep the stretch that it made final, if there is a place for it. `room`: bytes that slots leave
    /// free.
    pub fn keep<B: Backend>(
        &mut self,
        backend: &mut B,
        sequence: &mut Sequence,
        plan: &StepPlan,
        room: usize,
    ) {
        if self.limit == 0 || plan.stretch().is_none() {
            return;
        }
        let kept = self.kept(backend, sequence, plan, room);
        sequence.computed(kept);
        self.metrics.prefix_bytes(self.tree.bytes());
    }

    fn kept<B: Backend>(
        &mut self,
        backend: &mut B,
        sequence: &Sequence,
        plan: &StepPlan,
        room: usize,
    ) -> Option<PrefixId> {
        let positions = plan.stretch()?;
        self.metrics.prefix_queried(positions.len(), false);
        let (before, stretch) = sequence.computes()?;
        // Another one may have been quicker, where nobody waited because there was no place.
        if let Some(id) = self.tree.find(before, stretch) {
            return Some(id);
        }
        let bytes = self.bytes(backend, stretch)?;
        let (id, gone) = self.tree.insert((before, stretch), bytes, self.limit.min(room))?;
        self.forget(backend, &gone);
        if let Err(error) = backend.keep(id, sequence.slot(), positions) {
            tracing::warn!(%error, "a prefix could not be kept");
            self.tree.remove(id);
            return None;
        }
        Some(id)
    }

    /// Let go of what is kept until it fits into `room` bytes. False: it did.
    pub fn make_room<B: Backend>(&mut self, backend: &mut B, room: usize) -> bool {
        let gone = self.tree.shrink(room);
        self.forget(backend, &gone);
        self.metrics.prefix_bytes(self.tree.bytes());
        !gone.is_empty()
    }

    /// Nobody uses an adapter any more: give it back, and all that was computed with it.
    pub fn drop_adapter<B: Backend>(&mut self, backend: &mut B, adapter: AdapterId) {
        self.tree.remove_all_of(adapter).into_iter().for_each(|id| backend.forget(id));
        self.metrics.prefix_bytes(self.tree.bytes());
        backend.drop_adapter(adapter);
    }

    fn forget<B: Backend>(&self, backend: &mut B, gone: &[PrefixId]) {
        gone.iter().for_each(|id| backend.forget(*id));
        self.metrics.prefixes_evicted(gone.len());
    }

    /// What a stretch takes: the backend's copy, and its tokens.
    fn bytes<B: Backend>(&self, backend: &B, stretch: &[u32]) -> Option<usize> {
        Some(backend.kept_bytes(stretch.len())? + size_of_val(stretch))
    }
}
