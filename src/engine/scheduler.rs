//! Which running sequences take a step in this tick. Pure policy.

/// What the scheduler knows of a running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Rows its next step feeds in.
    pub rows: usize,
    /// The tick of its last step.
    pub last_tick: u64,
}

/// Indices of the sequences to step, ascending. `candidates` are in order of arrival; `budget` is in rows.
///
/// Whoever has waited longest goes first, then whoever came first, as long as the rows fit. The first one always goes:
/// a window larger than the budget runs in a tick of its own. Nobody is overtaken twice by the same sequence.
pub(super) fn choose(candidates: &[Candidate], budget: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|i| candidates[*i].last_tick);
    let mut rows = 0;
    let fits = |i: &usize| {
        let first = rows == 0;
        rows += candidates[*i].rows;
        first || rows <= budget
    };
    let mut chosen: Vec<usize> = order.into_iter().take_while(fits).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_over_the_budget_runs_alone() {
        let at = |rows| Candidate { rows, last_tick: 0 };
        assert_eq!(choose(&[at(100), at(1)], 10), [0]);
        assert_eq!(choose(&[at(4), at(6), at(1)], 10), [0, 1]);
    }

    proptest! {
        #[test]
        fn every_sequence_steps_within_as_many_ticks_as_there_are_sequences(
            rows in proptest::collection::vec(1usize..60, 1..30), budget in 1usize..80,
        ) {
            let mut state: Vec<Candidate> = rows.iter().map(|r| Candidate { rows: *r, last_tick: 0 }).collect();
            let count = state.len();
            for tick in 1..=(3 * count as u64) {
                let chosen = choose(&state, budget);
                prop_assert!(!chosen.is_empty());
                prop_assert!(chosen.len() == 1 || chosen.iter().map(|i| state[*i].rows).sum::<usize>() <= budget);
                for i in chosen {
                    state[i].last_tick = tick;
                }
                let limit = tick.saturating_sub(count as u64);
                prop_assert!(state.iter().all(|c| c.last_tick >= limit), "starved at tick {tick}");
            }
        }
    }
}
