//! How the segments of a pass are put together, so that attention is few products of equal pieces.
//!
//! A strip is some rows of a segment and what they see. A group of strips is padded to its longest window and its widest view;
//! what is padded costs work and memory and says nothing, because a bias of -inf keeps it out of the soft-max. That bias is
//! about the padding of a group, never about what a position may see.

use std::ops::Range;

use crate::model::ModelConfig;

/// Most scores of a group, over all heads: 256 MiB of f32.
const SCORES: usize = 64 << 20;

/// Most numbers of keys and values that are gathered at once: 512 MiB of f32, 256 MiB of bf16.
const KEY_VALUES: usize = 128 << 20;

/// How large a group may get: what is gathered and computed for one lies beside the weights and the pool.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Pairs of a row and a place, padding included. A strip of one row may have more.
    pub pairs: usize,
    /// Places, padding included. A single strip may have more.
    pub places: usize,
}

impl Most {
    /// For a model's heads.
    pub fn of(config: &ModelConfig) -> Self {
        Self { pairs: SCORES / config.heads, places: KEY_VALUES / (2 * config.kv_width()) }
    }
}

/// Rows that attend to the same places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strip {
    /// Which segment.
    pub segment: usize,
    /// Packed rows.
    pub rows: Range<usize>,
    /// So many places of the slot, from its first.
    pub visible: usize,
}

/// Strips that go through one product.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// In no order that matters.
    pub strips: Vec<Strip>,
    /// Rows of the longest.
    pub rows: usize,
    /// View of the widest.
    pub visible: usize,
}

impl Group {
    fn with(&self, strip: &Strip) -> (usize, usize) {
        (self.rows.max(strip.rows.len()), self.visible.max(strip.visible))
    }

    /// Pairs of a row and a place, without padding.
    fn pairs(&self) -> usize {
        self.strips.iter().map(|strip| strip.rows.len() * strip.visible).sum()
    }

    fn takes(&self, strip: &Strip, most: Most) -> bool {
        let (rows, visible) = self.with(strip);
        let places = (self.strips.len() + 1) * visible;
        let pairs = self.pairs() + strip.rows.len() * strip.visible;
        places <= most.places && places * rows <= most.pairs && places * rows < 2 * pairs
    }

    fn push(&mut self, strip: Strip) {
        (self.rows, self.visible) = self.with(&strip);
        self.strips.push(strip);
    }
}

/// Groups for segments of (rows, visible) each. No group is padded to twice its pairs, or has more than `most` but for its
/// exceptions.
pub fn groups(segments: &[(usize, usize)], most: Most) -> Vec<Group> {
    let (mut strips, mut first) = (Vec::new(), 0);
    for (segment, (rows, visible)) in segments.iter().enumerate() {
        let last = first + rows;
        let step = (most.pairs / (*visible).max(1)).max(1);
        let starts = (first..last).step_by(step);
        let visible = *visible;
        strips.extend(starts.map(|start| Strip { segment, rows: start..last.min(start + step), visible }));
        first = last;
    }
    strips.sort_by_key(|strip| (strip.visible, strip.rows.len(), strip.rows.start));
    let mut groups: Vec<Group> = Vec::new();
    for strip in strips {
        match groups.iter_mut().find(|group| group.takes(&strip, most)) {
            Some(group) => group.push(strip),
            None => {
                let mut group = Group::default();
                group.push(strip);
                groups.push(group);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_strip_and_padding_is_below_twice(
            segments in prop::collection::vec((1usize..60, 1usize..300), 0..40),
            pairs in 1usize..50_000, places in 1usize..3_000,
        ) {
            let groups = groups(&segments, Most { pairs, places });
            let mut rows: Vec<(usize, usize)> = Vec::new();
            for group in &groups {
                let padded = group.strips.len() * group.rows * group.visible;
                prop_assert!(padded < 2 * group.pairs());
                let alone = group.strips.len() == 1;
                prop_assert!(padded <= pairs || (alone && group.rows == 1));
                prop_assert!(group.strips.len() * group.visible <= places || alone);
                for strip in &group.strips {
                    prop_assert_eq!(strip.visible, segments[strip.segment].1);
                    rows.extend(strip.rows.clone().map(|row| (row, strip.segment)));
                }
            }
            rows.sort_unstable();
            let owners = segments.iter().enumerate().flat_map(|(n, (rows, _))| std::iter::repeat_n(n, *rows));
            prop_assert_eq!(rows, owners.enumerate().collect::<Vec<_>>());
        }
    }

    #[test]
    fn segments_that_are_alike_are_one_group_however_many() {
        for count in [1, 8, 32] {
            assert_eq!(groups(&vec![(8, 24); count], Most { pairs: SCORES / 4, places: 1 << 14 }).len(), 1);
        }
    }

    #[test]
    fn single_rows_that_see_much_do_not_gather_the_whole_pool_at_once() {
        let groups = groups(&[(1, 4096); 20], Most { pairs: SCORES, places: 1 << 14 });
        assert_eq!(groups.iter().map(|group| group.strips.len()).collect::<Vec<_>>(), [4; 5]);
    }
}
