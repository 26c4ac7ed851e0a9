//! Which running sequences take a step in this tick. Pure policy.

use std::collections::HashSet;

/// What the scheduler knows of a running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contender {
    /// Rows its next step feeds in.
    pub rows: usize,
    /// The tick of its last step.
    pub last_tick: u64,
    /// Its next step is under way, over several ticks.
    pub long: bool,
    /// Those with the same number would compute the same prefix; once one of them has, the others need not.
    pub alike: Option<usize>,
}

/// Who steps in a tick, as indices of contenders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// A whole step in one pass, ascending.
    pub whole: Vec<usize>,
    /// Some layers of a step that is longer than a tick.
    pub long: Option<usize>,
}

/// Who steps. `contenders` are in order of arrival; `budget` is in rows; `cut`: a step can be cut between layers.
///
/// Whoever has waited longest goes first, then whoever came first, as long as the rows fit. If the first one's step does
/// not fit into a tick it is cut, and until it is done the others share half of the budget; of steps that long there is
/// one at a time. If it cannot be cut it runs in a tick of its own. Of those that would compute the same prefix one steps,
/// and the others wait for it. Nobody is overtaken twice by the same sequence, but by those that fit while it waits for its
/// turn to be cut or for the prefix.
pub fn choose(contenders: &[Contender], budget: usize, cut: bool) -> Turn {
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    order.sort_by_key(|i| contenders[*i].last_tick);
    let under_way = order.iter().copied().find(|i| contenders[*i].long);
    let too_long = |i: &usize| cut && contenders[*i].rows > budget;
    let long = under_way.or_else(|| order.first().copied().filter(too_long));
    // A step that is to be cut waits for its turn, and holds up nobody behind it.
    order.retain(|i| Some(*i) != long && !too_long(i));
    let mut computed: HashSet<usize> = long.and_then(|i| contenders[i].alike).into_iter().collect();
    order.retain(|i| contenders[*i].alike.is_none_or(|number| computed.insert(number)));
    let share = if long.is_some() { budget.div_ceil(2) } else { budget };
    let mut rows = 0;
    let fits = |i: &usize| {
        let first = rows == 0;
        rows += contenders[*i].rows;
        first || rows <= share
    };
    let mut whole: Vec<usize> = order.into_iter().take_while(fits).collect();
    whole.sort_unstable();
    Turn { whole, long }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_over_the_budget_runs_alone() {
        let at = |rows| Contender { rows, last_tick: 0, long: false, alike: None };
        assert_eq!(choose(&[at(100), at(1)], 10, false).whole, [0]);
        assert_eq!(choose(&[at(4), at(6), at(1)], 10, false).whole, [0, 1]);
    }

    #[test]
    fn a_window_over_the_budget_is_cut_if_it_can_be_and_the_others_go_on() {
        let at = |rows, last_tick, long| Contender { rows, last_tick, long, alike: None };
        let turn = |contenders: &[Contender]| {
            let turn = choose(contenders, 10, true);
            (turn.whole, turn.long)
        };
        assert_eq!(turn(&[at(100, 0, false), at(1, 0, false)]), (vec![1], Some(0)));
        // Under way: it stays the one, however long others have waited; those that are too long wait, the rest share.
        let crowd = [at(200, 0, false), at(3, 1, false), at(100, 2, true), at(2, 1, false), at(1, 1, false)];
        assert_eq!(turn(&crowd), (vec![1, 3], Some(2)));
        // Whoever is not first waits until it is, and holds up nobody.
        assert_eq!(turn(&[at(4, 0, false), at(100, 1, false), at(4, 1, false)]), (vec![0, 2], None));
        assert_eq!(turn(&[at(100, 5, true)]), (vec![], Some(0)));
    }

    #[test]
    fn of_those_that_compute_the_same_prefix_the_first_steps_and_holds_up_nobody_else() {
        let at = |rows, last_tick, alike| Contender { rows, last_tick, long: false, alike };
        let crowd =
            [at(4, 1, Some(0)), at(4, 0, Some(0)), at(3, 1, Some(1)), at(4, 1, Some(0)), at(3, 1, None)];
        let turn = choose(&crowd, 10, true);
        assert_eq!((turn.whole, turn.long), (vec![1, 2, 4], None));
        // One that is cut counts, too, and so does one that is under way.
        let crowd = [at(100, 0, Some(0)), at(4, 1, Some(0)), at(4, 1, None)];
        let turn = choose(&crowd, 10, true);
        assert_eq!((turn.whole, turn.long), (vec![2], Some(0)));
        let under_way = Contender { long: true, ..at(100, 5, Some(0)) };
        let turn = choose(&[under_way, at(4, 1, Some(0)), at(4, 1, None)], 10, true);
        assert_eq!((turn.whole, turn.long), (vec![2], Some(0)));
    }

    proptest! {
        #[test]
        fn every_sequence_steps_within_as_many_ticks_as_there_are_sequences(
            rows in proptest::collection::vec(1usize..60, 1..30), budget in 1usize..80,
        ) {
            let mut state: Vec<Contender> = rows.iter().map(|r| Contender { rows: *r, last_tick: 0, long: false, alike: None }).collect();
            let count = state.len();
            for tick in 1..=(3 * count as u64) {
                let chosen = choose(&state, budget, false).whole;
                prop_assert!(!chosen.is_empty());
                prop_assert!(chosen.len() == 1 || chosen.iter().map(|i| state[*i].rows).sum::<usize>() <= budget);
                for i in chosen {
                    state[i].last_tick = tick;
                }
                let limit = tick.saturating_sub(count as u64);
                prop_assert!(state.iter().all(|c| c.last_tick >= limit), "starved at tick {tick}");
            }
        }

        #[test]
        fn long_steps_starve_nobody_and_are_not_starved(
            rows in proptest::collection::vec(1usize..60, 1..20), budget in 2usize..40, pieces in 1usize..5,
        ) {
            let mut state: Vec<Contender> = rows.iter().map(|r| Contender { rows: *r, last_tick: 0, long: false, alike: None }).collect();
            let (count, mut left) = (state.len() as u64, 0);
            // A round of long steps, one after the other, and one of those that fit.
            let patience = (pieces as u64 + 1) * (count + 1);
            for tick in 1..=(5 * patience) {
                let Turn { whole, long } = choose(&state, budget, true);
                prop_assert!(long.is_some() || !whole.is_empty());
                prop_assert!(whole.len() <= 1 || whole.iter().map(|i| state[*i].rows).sum::<usize>() <= budget);
                prop_assert!(whole.iter().all(|i| state[*i].rows <= budget));
                if let Some(i) = long {
                    left = if state[i].long { left - 1 } else { pieces - 1 };
                    state[i].long = left > 0;
                    if left == 0 {
                        state[i].last_tick = tick;
                    }
                }
                whole.into_iter().for_each(|i| state[i].last_tick = tick);
                let limit = tick.saturating_sub(patience);
                prop_assert!(state.iter().all(|c| c.last_tick >= limit), "starved at tick {tick}");
            }
        }
    }
}
