//! Which prefixes of block-causal canvases are kept. Pure policy: their K/V are the backend's.
//!
//! In such a model the prompt sees itself and a block sees itself and what comes before it, so what a finished prefix
//! holds depends on its tokens and on where its blocks begin, and on nothing behind it. A tree keeps them: every prefix
//! adds one stretch of tokens (the prompt, or a block) to the prefix before it. Two prefixes are the same if all their
//! stretches are, token by token. Every adapter has a tree of its own, because other weights make other K/V.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::batch::{AdapterId, PrefixId};

/// Kept prefixes, within a number of bytes that the caller gives. What was used longest ago goes first, and nothing goes
/// before what builds on it.
#[derive(Debug)]
pub(super) struct PrefixTree {
    entries: HashMap<PrefixId, Entry>,
    /// By their last use. A prefix was used whenever one that builds on it was, a moment later: the first has none.
    by_use: BTreeMap<u64, PrefixId>,
    bytes: usize,
    /// Never used again, so that whoever remembers a prefix that is gone finds nothing.
    next_id: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    before: PrefixId,
    stretch: Rc<[u32]>,
    bytes: usize,
    used: u64,
    /// Prefixes that build on it, by what they add.
    next: HashMap<Rc<[u32]>, PrefixId>,
}

impl Entry {
    fn new(before: PrefixId, stretch: Rc<[u32]>, bytes: usize) -> Self {
        Self { before, stretch, bytes, used: 0, next: HashMap::new() }
    }
}

impl PrefixTree {
    pub fn new() -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), bytes: 0, next_id: 1, clock: 0 }
    }

    /// Bytes of all kept prefixes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The prefix that adds `stretch` to `before`, if it is kept. It counts as used.
    pub fn find(&mut self, before: PrefixId, stretch: &[u32]) -> Option<PrefixId> {
        let id = *self.entries.get(&before)?.next.get(stretch)?;
        self.touch(id);
        Some(id)
    }

    /// Whether a prefix of `bytes` bytes on top of `before` has a place within `limit` bytes, whatever must go for it.
    pub fn has_place(&self, before: PrefixId, bytes: usize, limit: usize) -> bool {
        let mut all = Some(bytes);
        let mut at = before;
        while !at.is_empty() {
            // What it builds on may be gone.
            let Some(entry) = self.entries.get(&at) else { return false };
            all = all.and_then(|all| all.checked_add(entry.bytes));
            at = entry.before;
        }
        all.is_some_and(|all| all <= limit)
    }

    /// Keep the prefix that adds `stretch` to `before`, which is not kept yet. Returns it and those that went for it;
    /// `None`: it has no place within `limit` bytes, and none went.
    pub fn insert(
        &mut self,
        (before, stretch): (PrefixId, &[u32]),
        bytes: usize,
        limit: usize,
    ) -> Option<(PrefixId, Vec<PrefixId>)> {
        if !self.has_place(before, bytes, limit) {
            return None;
        }
        // What it builds on becomes the youngest, and there is room beside it: it stays.
        self.touch(before);
        let gone = self.shrink(limit - bytes);
        let id = PrefixId { adapter: before.adapter, number: self.next_id };
        self.next_id += 1;
        let stretch: Rc<[u32]> = stretch.into();
        if before.is_empty() {
            self.entries.entry(before).or_insert_with(|| Entry::new(before, Rc::from([]), 0));
        }
        self.entries.get_mut(&before)?.next.insert(Rc::clone(&stretch), id);
        self.entries.insert(id, Entry::new(before, stretch, bytes));
        self.bytes += bytes;
        self.touch(id);
        Some((id, gone))
    }

    /// Let go of the prefixes that were used longest ago, until at most `limit` bytes are left. Returns them.
    pub fn shrink(&mut self, limit: usize) -> Vec<PrefixId> {
        let mut gone = Vec::new();
        while self.bytes > limit
            && let Some(id) = self.by_use.values().next().copied()
        {
            self.remove(id);
            gone.push(id);
        }
        gone
    }

    /// Let go of a prefix on which nothing builds.
    pub fn remove(&mut self, id: PrefixId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        debug_assert!(entry.next.is_empty(), "what builds on a prefix is older than it");
        self.by_use.remove(&entry.used);
        self.bytes -= entry.bytes;
        if let Some(before) = self.entries.get_mut(&entry.before) {
            before.next.remove(&entry.stretch);
        }
    }

    /// Let go of all prefixes of an adapter. Returns them.
    pub fn remove_all_of(&mut self, adapter: AdapterId) -> Vec<PrefixId> {
        let of_it = |id: &PrefixId, _: &mut Entry| id.adapter == Some(adapter);
        let mut gone = Vec::new();
        for (id, entry) in self.entries.extract_if(of_it).filter(|(id, _)| !id.is_empty()) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
            gone.push(id);
        }
        gone
    }

    /// A prefix was used, and with it all that it builds on.
    fn touch(&mut self, id: PrefixId) {
        let mut at = id;
        while !at.is_empty()
            && let Some(entry) = self.entries.get_mut(&at)
        {
            self.clock += 1;
            self.by_use.remove(&entry.used);
            entry.used = self.clock;
            self.by_use.insert(self.clock, at);
            at = entry.before;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: PrefixId = PrefixId { adapter: None, number: 0 };

    #[test]
    fn a_prefix_is_found_by_all_its_tokens_and_borders_and_by_nothing_less() {
        let mut tree = PrefixTree::new();
        let (prompt, _) = tree.insert((EMPTY, &[1, 2]), 10, 100).unwrap();
        let (block, _) = tree.insert((prompt, &[3, 4]), 10, 100).unwrap();
        assert_eq!(tree.find(EMPTY, &[1, 2]), Some(prompt));
        assert_eq!(tree.find(prompt, &[3, 4]), Some(block));
        for stretch in [&[1][..], &[1, 2, 3], &[1, 3], &[1, 2, 3, 4], &[3, 4], &[]] {
            assert_eq!(tree.find(EMPTY, stretch), None, "{stretch:?}");
        }
        assert_eq!(tree.find(prompt, &[3]), None);
        assert_eq!(tree.find(block, &[3, 4]), None);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_only_as_much_as_must() {
        let mut tree = PrefixTree::new();
        let [a, b, c] = [1, 2, 3].map(|token| tree.insert((EMPTY, &[token]), 10, 30).unwrap().0);
        assert_eq!(tree.find(EMPTY, &[1]), Some(a));
        let (d, gone) = tree.insert((EMPTY, &[4]), 15, 30).unwrap();
        assert_eq!(gone, [b, c]);
        assert_eq!(tree.find(EMPTY, &[2]), None);
        assert_eq!(tree.shrink(20), [a]);
        assert_eq!((tree.bytes(), tree.shrink(0)), (15, vec![d]));
        assert_eq!(tree.bytes(), 0);
    }

    #[test]
    fn what_has_no_place_beside_what_it_builds_on_drives_nothing_out() {
        let mut tree = PrefixTree::new();
        let (prompt, _) = tree.insert((EMPTY, &[1]), 20, 50).unwrap();
        let (other, _) = tree.insert((EMPTY, &[2]), 20, 50).unwrap();
        assert!(tree.insert((prompt, &[3]), 31, 50).is_none());
        assert!(tree.insert((EMPTY, &[4]), 51, 50).is_none());
        assert_eq!(tree.bytes(), 40);
        let (_, gone) = tree.insert((prompt, &[3]), 30, 50).unwrap();
        assert_eq!(gone, [other]);
    }

    #[test]
    fn adapters_share_no_prefix_and_one_that_goes_takes_its_own_with_it() {
        let mut tree = PrefixTree::new();
        let empty = |number| PrefixId::empty(Some(AdapterId(number)));
        let (own, _) = tree.insert((EMPTY, &[1, 2]), 10, 100).unwrap();
        assert_eq!(tree.find(empty(7), &[1, 2]), None);
        let (first, _) = tree.insert((empty(7), &[1, 2]), 10, 100).unwrap();
        let (block, _) = tree.insert((first, &[3]), 5, 100).unwrap();
        let (other, _) = tree.insert((empty(8), &[1, 2]), 10, 100).unwrap();
        assert_eq!(HashMap::from([(own, 0), (first, 0), (block, 0), (other, 0)]).len(), 4);
        let mut gone = tree.remove_all_of(AdapterId(7));
        gone.sort();
        assert_eq!((gone, tree.bytes()), (vec![first, block], 20));
        assert_eq!(tree.find(empty(7), &[1, 2]), None);
        assert_eq!(tree.find(EMPTY, &[1, 2]), Some(own));
        assert_eq!(tree.shrink(10), [other]);
        assert!(tree.remove_all_of(AdapterId(8)).is_empty());
    }

    #[test]
    fn nothing_builds_on_a_prefix_that_is_gone() {
        let mut tree = PrefixTree::new();
        let (prompt, _) = tree.insert((EMPTY, &[1]), 10, 20).unwrap();
        assert_eq!(tree.shrink(0), [prompt]);
        assert!(!tree.has_place(prompt, 1, 20));
        assert!(tree.insert((prompt, &[2]), 1, 20).is_none());
        let (again, _) = tree.insert((EMPTY, &[1]), 10, 20).unwrap();
        assert_ne!(again, prompt, "an id that somebody may remember");
    }

    proptest! {
        #[test]
        fn the_tree_is_what_was_inserted_less_what_went_and_never_above_the_limit(
            steps in proptest::collection::vec((0usize..12, 0u32..3, 1usize..40, 0usize..120), 1..150),
        ) {
            let mut tree = PrefixTree::new();
            // Every prefix that was ever there: its whole path of stretches and its bytes.
            let mut kept: BTreeMap<u64, (Vec<u32>, usize)> = BTreeMap::from([(0, (vec![], 0))]);
            let of = |number| PrefixId { adapter: None, number };
            for (which, token, bytes, limit) in steps {
                let ids: Vec<u64> = kept.keys().copied().collect();
                let before = of(ids[which % ids.len()]);
                let path = [kept[&before.number].0.as_slice(), &[token]].concat();
                let there = kept.iter().find(|(_, (other, _))| *other == path).map(|(id, _)| of(*id));
                prop_assert_eq!(tree.find(before, &[token]), there);
                let gone = match there {
                    Some(_) => tree.shrink(limit),
                    None => match tree.insert((before, &[token]), bytes, limit) {
                        Some((id, gone)) => {
                            prop_assert!(kept.insert(id.number, (path, bytes)).is_none());
                            gone
                        }
                        None => continue,
                    },
                };
                for id in gone {
                    let (path, _) = kept.remove(&id.number).unwrap();
                    let builds_on = |other: &Vec<u32>| other.len() > path.len() && other.starts_with(&path);
                    prop_assert!(!kept.values().any(|(other, _)| builds_on(other)), "{path:?} went too early");
                }
                prop_assert_eq!(tree.bytes(), kept.values().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert!(tree.bytes() <= limit);
            }
            prop_assert_eq!(tree.shrink(0).len(), kept.len() - 1);
        }
    }
}
