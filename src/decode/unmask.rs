//! Which undecided positions of a block a step decides: a fixed schedule, a confidence threshold, or Fast-dLLM's
//! factor.

use super::options::Unmask;

/// How many positions step `step` of a block decides when `count` positions are spread over `steps` steps: evenly, the
/// remainder in the first steps.
fn quota(count: usize, steps: usize, step: usize) -> usize {
    count / steps + usize::from(step < count % steps)
}

/// The steps that block `block` of `blocks` gets of a total of `steps`, at most one per position.
fn block_steps(steps: usize, blocks: usize, block: usize, positions: usize) -> usize {
    (steps / blocks + usize::from(block < steps % blocks)).min(positions)
}

/// Where in a sequence a selection happens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Blocks of the answer.
    pub blocks: usize,
    /// The current block, from 0.
    pub block: usize,
    /// Positions of the current block.
    pub positions: usize,
    /// The block's step, from 0.
    pub step: usize,
}

/// Indices into `confidences` (the undecided positions of the block, left to right) to decide now; at least one, the most
/// confident first. Of equal confidences the leftmost goes before.
pub(super) fn select(confidences: &[f32], rule: Unmask, place: Place) -> Vec<usize> {
    let mut order: Vec<usize> = (0..confidences.len()).collect();
    // The sort is stable, which is what makes the leftmost of equals win.
    order.sort_by(|a, b| confidences[*b].total_cmp(&confidences[*a]));
    let count = match rule {
        Unmask::Steps(total) => {
            let steps = block_steps(total, place.blocks, place.block, place.positions);
            quota(place.positions, steps, place.step)
        }
        Unmask::Threshold(threshold) => confidences.iter().filter(|c| f64::from(**c) >= threshold).count(),
        Unmask::Factor(factor) => {
            // (n + 1)(1 - c_n) never decreases with n: the scan ends at the first n that fails.
            let fits = |(i, p): (usize, &usize)| (i + 2) as f64 * (1.0 - f64::from(confidences[*p])) < factor;
            order.iter().enumerate().take_while(|at| fits(*at)).count()
        }
    };
    order.truncate(count.max(1));
    order
}

/// Whether a position may be decided with a token of this confidence that is not its guess, which turned out impossible
/// after the rule had selected the position.
pub(super) fn takes_another(confidence: f32, rule: Unmask) -> bool {
    match rule {
        // So many positions are to be decided, however unsure they are.
        Unmask::Steps(_) => true,
        Unmask::Threshold(threshold) => f64::from(confidence) >= threshold,
        // The rule weighs all confidences together, and knew nothing of this one.
        Unmask::Factor(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(positions: usize, step: usize) -> Place {
        Place { blocks: 1, block: 0, positions, step }
    }

    #[test]
    fn equal_confidences_pick_the_leftmost() {
        assert_eq!(select(&[0.5, 0.9, 0.9], Unmask::Threshold(0.95), place(3, 0)), [1]);
        assert_eq!(select(&[0.5, 0.5, 0.5, 0.5], Unmask::Steps(2), place(4, 0)), [0, 1]);
    }

    #[test]
    fn threshold_takes_all_at_or_above_it() {
        assert_eq!(select(&[0.5, 0.25, 0.75], Unmask::Threshold(0.5), place(3, 0)), [2, 0]);
    }

    #[test]
    fn factor_is_a_strict_bound() {
        // n = 1: 2 * (1 - 0.75) = 0.5 is not below 0.5, but one is always taken.
        assert_eq!(select(&[0.75, 0.75], Unmask::Factor(0.5), place(2, 0)), [0]);
        assert_eq!(select(&[0.75, 0.75], Unmask::Factor(0.76), place(2, 0)), [0, 1]);
    }

    proptest! {
        #[test]
        fn a_schedule_decides_every_position_in_its_steps(steps in 1usize..200, blocks in 1usize..9, len in 1usize..40) {
            prop_assume!(steps >= blocks);
            let mut total = 0;
            for block in 0..blocks {
                let per_block = block_steps(steps, blocks, block, len);
                prop_assert!(per_block >= 1);
                let sum: usize = (0..per_block).map(|i| quota(len, per_block, i)).sum();
                prop_assert_eq!(sum, len);
                prop_assert!((0..per_block).all(|i| quota(len, per_block, i) >= 1));
                total += per_block;
            }
            prop_assert!(total <= steps);
        }
    }
}
