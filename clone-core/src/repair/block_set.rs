//! Sets of blocks of a device. A node may hold numbers past the end; they are in no set.

use fixedbitset::FixedBitSet;
use persistent_data::BlockNr;

/// One bit per block.
#[derive(Clone, Debug)]
pub(super) struct BlockSet(FixedBitSet);

impl BlockSet {
    /// Returns an empty set for a device of `nr_blocks`.
    pub(super) fn none_of(nr_blocks: u64) -> Self {
        Self(FixedBitSet::with_capacity(nr_blocks as usize))
    }

    /// Returns the set of all blocks of a device of `nr_blocks`.
    pub(super) fn all_of(nr_blocks: u64) -> Self {
        let mut all = Self::none_of(nr_blocks);
        all.0.insert_range(..);
        all
    }

    /// Returns the number of blocks of the device, in the set or not.
    pub(super) fn nr_blocks(&self) -> u64 {
        self.0.len() as u64
    }

    /// Inserts a block. Returns whether it is on the device and was not in the set.
    pub(super) fn insert(&mut self, at: BlockNr) -> bool {
        self.index(at).is_some_and(|index| !self.0.put(index))
    }

    pub(super) fn remove(&mut self, at: BlockNr) {
        if let Some(index) = self.index(at) {
            self.0.remove(index);
        }
    }

    pub(super) fn contains(&self, at: BlockNr) -> bool {
        self.index(at).is_some_and(|index| self.0.contains(index))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_clear()
    }

    pub(super) fn len(&self) -> usize {
        self.0.count_ones(..)
    }

    /// Returns the blocks, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = BlockNr> + '_ {
        self.0.ones().map(|index| BlockNr(index as u64))
    }

    fn index(&self, at: BlockNr) -> Option<usize> {
        usize::try_from(at.0).ok().filter(|&index| index < self.0.len())
    }
}

impl Extend<BlockNr> for BlockSet {
    fn extend<I: IntoIterator<Item = BlockNr>>(&mut self, blocks: I) {
        for at in blocks {
            self.insert(at);
        }
    }
}
