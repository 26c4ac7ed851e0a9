//! Who holds which slot. A lease gives its slot back when it is dropped, so no path can leak one.

use std::cell::RefCell;
use std::rc::Rc;

use super::batch::SlotId;

#[derive(Debug)]
struct Pool {
    /// Generation of the next owner, by slot index.
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Given back, not yet told to the backend.
    returned: Vec<SlotId>,
    used_bytes: usize,
    limit_bytes: usize,
}

/// The slots of an engine. Clones share them; all live on the engine's thread.
#[derive(Debug, Clone)]
pub(super) struct SlotPool(Rc<RefCell<Pool>>);

/// A slot in use.
#[derive(Debug)]
pub(super) struct SlotLease {
    id: SlotId,
    bytes: usize,
    pool: SlotPool,
}

impl SlotPool {
    pub fn new(slots: usize, limit_bytes: usize) -> Self {
        let count = u32::try_from(slots).unwrap_or(u32::MAX);
        Self(Rc::new(RefCell::new(Pool {
            generations: vec![0; count as usize],
            free: (0..count).rev().collect(),
            returned: Vec::new(),
            used_bytes: 0,
            limit_bytes,
        })))
    }

    /// A free slot with room for `bytes`, or `None` for now.
    pub fn lease(&self, bytes: usize) -> Option<SlotLease> {
        let mut pool = self.0.borrow_mut();
        if bytes > pool.limit_bytes - pool.used_bytes {
            return None;
        }
        let index = pool.free.pop()?;
        pool.used_bytes += bytes;
        let generation = pool.generations[index as usize];
        Some(SlotLease { id: SlotId { index, generation }, bytes, pool: self.clone() })
    }

    /// Slots given back since the last call; the backend still holds their memory.
    pub fn take_returned(&self) -> Vec<SlotId> {
        std::mem::take(&mut self.0.borrow_mut().returned)
    }

    pub fn used_bytes(&self) -> usize {
        self.0.borrow().used_bytes
    }

    /// Slots that nobody holds.
    pub fn free_slots(&self) -> usize {
        self.0.borrow().free.len()
    }

    /// Bytes that no slot takes.
    pub fn free_bytes(&self) -> usize {
        let pool = self.0.borrow();
        pool.limit_bytes - pool.used_bytes
    }
}

impl SlotLease {
    pub fn id(&self) -> SlotId {
        self.id
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        let mut pool = self.pool.0.borrow_mut();
        pool.used_bytes -= self.bytes;
        let next = &mut pool.generations[self.id.index as usize];
        *next = next.wrapping_add(1);
        pool.free.push(self.id.index);
        pool.returned.push(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn freed_slot_is_reused_by_the_next_request_under_a_new_generation() {
        let pool = SlotPool::new(1, 100);
        let first = pool.lease(60).unwrap();
        let id = first.id();
        assert!(pool.lease(1).is_none(), "only one slot exists");
        drop(first);
        assert_eq!(pool.take_returned(), [id]);
        let second = pool.lease(60).unwrap();
        assert_eq!(second.id().index, id.index);
        assert_ne!(second.id().generation, id.generation);
    }

    proptest! {
        #[test]
        fn a_slot_is_never_held_twice_and_bytes_add_up(ops in proptest::collection::vec((any::<bool>(), 0usize..50), 1..200)) {
            let pool = SlotPool::new(4, 100);
            let mut held: Vec<SlotLease> = Vec::new();
            for (take, n) in ops {
                if take {
                    held.extend(pool.lease(n));
                } else if !held.is_empty() {
                    held.remove(n % held.len());
                }
                let indices: HashSet<u32> = held.iter().map(|l| l.id().index).collect();
                prop_assert_eq!(indices.len(), held.len());
                prop_assert_eq!(pool.used_bytes(), held.iter().map(|l| l.bytes).sum::<usize>());
                prop_assert!(pool.used_bytes() <= 100);
            }
            drop(held);
            prop_assert_eq!(pool.used_bytes(), 0);
        }
    }
}
