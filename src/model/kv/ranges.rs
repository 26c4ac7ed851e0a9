//! Which places of a pool are free. What is given out may be in pieces: it is found by index, so nothing needs neighbours, and
//! a pool that has enough places has them for everybody.

use std::ops::Range;

/// Places of a pool, in canvas order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(Vec<Range<usize>>);

impl Places {
    /// A single one.
    pub fn one(place: usize) -> Self {
        let piece = place..place + 1;
        Self([piece].into())
    }

    /// Each place.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().cloned().flatten()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }
}

/// Free places, ascending, pieces never adjoining.
#[derive(Debug)]
pub struct Free(Vec<Range<usize>>);

impl Free {
    /// All of so many.
    pub fn new(places: usize) -> Self {
        let all = 0..places;
        Self(vec![all].into_iter().filter(|all| !all.is_empty()).collect())
    }

    /// How many are free.
    pub fn count(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// So many places, in one piece if there is one, else in several; `None` if there are not enough.
    pub fn take(&mut self, count: usize) -> Option<Places> {
        if count > self.count() {
            return None;
        }
        if let Some(piece) = self.0.iter_mut().find(|piece| piece.len() >= count) {
            let taken = piece.start..piece.start + count;
            piece.start = taken.end;
            self.0.retain(|piece| !piece.is_empty());
            return Some(Places(vec![taken].into_iter().filter(|taken| !taken.is_empty()).collect()));
        }
        let (mut taken, mut left) = (Vec::new(), count);
        while left > 0 {
            let mut piece = self.0.remove(0);
            if piece.len() > left {
                self.0.insert(0, piece.start + left..piece.end);
                piece.end = piece.start + left;
            }
            left -= piece.len();
            taken.push(piece);
        }
        Some(Places(taken))
    }

    /// Give places back.
    pub fn give(&mut self, places: Places) {
        self.0.extend(places.0);
        self.0.sort_unstable_by_key(|piece| piece.start);
        let mut joined: Vec<Range<usize>> = Vec::with_capacity(self.0.len());
        for piece in self.0.drain(..) {
            match joined.last_mut() {
                Some(last) if last.end == piece.start => last.end = piece.end,
                _ => joined.push(piece),
            }
        }
        self.0 = joined;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pool_that_has_enough_places_in_pieces_gives_them() {
        let mut free = Free::new(10);
        let mut held: Vec<Places> = (0..5).map(|_| free.take(2).unwrap()).collect();
        assert_eq!((free.count(), free.take(1)), (0, None));
        free.give(held.remove(3));
        free.give(held.remove(1));
        let pieces = free.take(3).unwrap();
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [2, 3, 6]);
        assert_eq!(free.take(0), Some(Places::default()));
    }

    proptest! {
        #[test]
        fn places_are_held_once_and_none_is_lost(
            turns in prop::collection::vec((any::<bool>(), 0usize..40), 1..60), places in 0usize..100,
        ) {
            let mut free = Free::new(places);
            let mut held: Vec<Places> = Vec::new();
            for (takes, n) in turns {
                if takes {
                    let enough = n <= free.count();
                    let taken = free.take(n);
                    prop_assert_eq!(taken.is_some(), enough);
                    held.extend(taken);
                } else if !held.is_empty() {
                    let place = n % held.len();
                    free.give(held.swap_remove(place));
                }
                let all: Vec<usize> = held.iter().flat_map(Places::iter).collect();
                let once: std::collections::BTreeSet<usize> = all.iter().copied().collect();
                prop_assert_eq!(once.len(), all.len());
                prop_assert!(all.iter().all(|place| *place < places));
                prop_assert_eq!(all.len() + free.count(), places);
            }
            held.into_iter().for_each(|places| free.give(places));
            prop_assert_eq!(free.0, Free::new(places).0);
        }
    }
}
