//! The cache of clean blocks of a [`Transaction`](super::Transaction).

use std::any::TypeId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::block::RawBlock;

/// Capacity: 4 MiB. The blocks that are read repeatedly are nodes, bitmaps and the index, which are
/// few.
const CACHED_BLOCKS_MAX: usize = 1024;

struct Entry {
    block: Arc<RawBlock>,
    /// The kind that the block was checked as.
    kind: TypeId,
    /// True if the block was used since it was last considered for eviction.
    used: bool,
}

/// A bounded cache of checked blocks. It evicts unused blocks first ("second chance").
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<u64, Entry>,
    /// Blocks in the order in which they are considered for eviction. May name removed blocks.
    queue: VecDeque<u64>,
}

impl Cache {
    pub(super) fn get(&mut self, at: u64, kind: TypeId) -> Option<Arc<RawBlock>> {
        let entry = self.entries.get_mut(&at).filter(|entry| entry.kind == kind)?;
        entry.used = true;
        Some(Arc::clone(&entry.block))
    }

    pub(super) fn insert(&mut self, at: u64, kind: TypeId, block: Arc<RawBlock>) {
        let entry = Entry { block, kind, used: false };
        if self.entries.insert(at, entry).is_none() {
            self.queue.push_back(at);
        }
        while self.queue.len() > CACHED_BLOCKS_MAX {
            let Some(oldest) = self.queue.pop_front() else { break };
            match self.entries.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.queue.push_back(oldest);
                }
                _ => {
                    self.entries.remove(&oldest);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, at: u64) {
        self.entries.remove(&at);
    }
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;
    use std::sync::Arc;

    use super::{CACHED_BLOCKS_MAX, Cache};
    use crate::block::RawBlock;

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let kind = TypeId::of::<()>();
        let mut cache = Cache::default();
        for at in 0..10 * CACHED_BLOCKS_MAX as u64 {
            cache.insert(at, kind, Arc::new(RawBlock::ZERO));
            assert!(cache.get(0, kind).is_some(), "{at}");
            if at % 3 == 0 {
                cache.remove(at / 2 + 1);
            }
            assert!(cache.entries.len() <= CACHED_BLOCKS_MAX);
            assert!(cache.queue.len() <= CACHED_BLOCKS_MAX);
        }
        assert!(cache.get(1, kind).is_none());
    }

    #[test]
    fn a_block_that_was_checked_as_another_kind_is_not_given_out() {
        let mut cache = Cache::default();
        cache.insert(1, TypeId::of::<u8>(), Arc::new(RawBlock::ZERO));
        assert!(cache.get(1, TypeId::of::<u16>()).is_none());
        assert!(cache.get(1, TypeId::of::<u8>()).is_some());
    }
}
