//! Sets of small numbers, one bit each.

/// A subset of `0..len`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BitSet(Box<[u64]>);

impl BitSet {
    /// The empty subset of `0..len`.
    pub fn empty(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)].into())
    }

    pub fn insert(&mut self, item: usize) {
        self.0[item / 64] |= 1 << (item % 64);
    }

    pub fn contains(&self, item: usize) -> bool {
        self.0[item / 64] >> (item % 64) & 1 == 1
    }

    /// Add all of `other`, a subset of the same numbers.
    pub fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// Whether the two have a member in common.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            let mut left = *bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(word * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_what_was_put_in() {
        let mut set = BitSet::empty(130);
        [0, 63, 64, 129].into_iter().for_each(|item| set.insert(item));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert!(set.contains(129) && !set.contains(128));
        let mut other = BitSet::empty(130);
        other.insert(65);
        assert!(!set.meets(&other));
        set.extend(&other);
        assert!(set.meets(&other) && set.contains(65));
    }
}
