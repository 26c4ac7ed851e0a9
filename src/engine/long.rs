//! A step over more rows than a tick may have. It is carried out some layers at a time, so that others step in between.

use std::ops::Range;

use super::batch::StepBatch;
use crate::decode::StepPlan;

/// A step that is under way.
#[derive(Debug)]
pub(super) struct LongStep {
    plan: StepPlan,
    batch: StepBatch,
    /// Layers that are behind it.
    done: usize,
}

impl LongStep {
    /// A step of which nothing is done yet.
    pub fn new(plan: StepPlan, batch: StepBatch) -> Self {
        Self { plan, batch, done: 0 }
    }

    /// What it feeds in.
    pub fn batch(&self) -> &StepBatch {
        &self.batch
    }

    /// Whether it recomputes the cache.
    pub fn refresh(&self) -> bool {
        self.plan.refresh
    }

    /// The layers that `rows` rows of a whole step pay for, of `layers` in all: at least one.
    pub fn next(&self, layers: usize, rows: usize) -> Range<usize> {
        let paid = layers.saturating_mul(rows) / self.batch.rows().max(1);
        self.done..layers.min(self.done.saturating_add(paid.max(1)))
    }

    /// The layers before this one are done.
    pub fn reached(&mut self, layer: usize) {
        self.done = layer;
    }

    /// What it was to feed in and to need, once it is over.
    pub fn into_plan(self) -> StepPlan {
        self.plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_step_takes_the_layers_that_its_rows_pay_for_and_never_none() {
        let mut batch = StepBatch::default();
        (0..400).for_each(|_| batch.push_row([(1, 1.0)]));
        let mut step = LongStep::new(StepPlan { windows: Vec::new(), refresh: true }, batch);
        assert_eq!(step.next(12, 100), 0..3);
        assert_eq!(step.next(12, 1), 0..1);
        assert_eq!(step.next(12, usize::MAX), 0..12);
        step.reached(11);
        assert_eq!(step.next(12, 100), 11..12);
    }
}
