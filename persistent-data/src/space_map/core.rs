//! A space map in memory only.

use std::collections::HashMap;

use fixedbitset::FixedBitSet;

use super::ledger::{decremented, incremented};
use crate::error::{Error, Result};
use crate::number::BlockNr;

/// Counts in memory: one bit per block, and a table of the few counts above one.
///
/// Checkers count the references that they find with it, and tests use it as a model. It takes
/// `nr_blocks / 8` bytes, so the caller must bound `nr_blocks` by the size of a device first.
#[derive(Clone, Debug)]
pub struct CoreSpaceMap {
    used: FixedBitSet,
    /// Counts of two and more.
    shared: HashMap<u64, u32>,
    nr_allocated: u64,
}

impl CoreSpaceMap {
    /// Creates a map of `nr_blocks` free blocks.
    ///
    /// # Panics
    /// If `nr_blocks` does not fit in a `usize`.
    pub fn new(nr_blocks: u64) -> Self {
        let nr_blocks = usize::try_from(nr_blocks).expect("a bit a block fits in memory");
        Self {
            used: FixedBitSet::with_capacity(nr_blocks),
            shared: HashMap::new(),
            nr_allocated: 0,
        }
    }

    /// Returns the number of blocks that the map covers.
    pub fn nr_blocks(&self) -> u64 {
        self.used.len() as u64
    }

    /// Returns the number of blocks with a count above zero.
    pub fn nr_allocated(&self) -> u64 {
        self.nr_allocated
    }

    /// Returns the reference count of the block at `at`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] past the end.
    pub fn count(&self, at: BlockNr) -> Result<u32> {
        let index = self.index(at)?;
        if !self.used[index] {
            return Ok(0);
        }
        Ok(self.shared.get(&at.0).copied().unwrap_or(1))
    }

    /// Adds a reference to the block at `at` and returns the new count.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] past the end, and [`Error::CountOverflow`].
    pub fn inc(&mut self, at: BlockNr) -> Result<u32> {
        let count = incremented(at, self.count(at)?)?;
        self.set(at, count);
        Ok(count)
    }

    /// Removes a reference to the block at `at` and returns the new count.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] past the end, and [`Error::CountUnderflow`] at a count of zero.
    pub fn dec(&mut self, at: BlockNr) -> Result<u32> {
        let count = decremented(at, self.count(at)?)?;
        self.set(at, count);
        Ok(count)
    }

    /// Allocates the first free block. Its count is one.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if no block is free.
    pub fn alloc(&mut self) -> Result<BlockNr> {
        let free = self.used.zeroes().next().ok_or(Error::NoSpace)?;
        let at = BlockNr(free as u64);
        self.set(at, 1);
        Ok(at)
    }

    /// Returns the blocks with a count above zero and their counts, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (BlockNr, u32)> + '_ {
        self.used.ones().map(|index| {
            let at = index as u64;
            (BlockNr(at), self.shared.get(&at).copied().unwrap_or(1))
        })
    }

    fn index(&self, at: BlockNr) -> Result<usize> {
        let nr_blocks = self.nr_blocks();
        match usize::try_from(at.0) {
            Ok(index) if at.0 < nr_blocks => Ok(index),
            _ => Err(Error::OutOfRange { at, nr_blocks }),
        }
    }

    /// Sets a count. `at` is in range: it was checked by [`Self::count`], or comes from the bits.
    fn set(&mut self, at: BlockNr, count: u32) {
        let index = at.0 as usize;
        match (self.used[index], count > 0) {
            (false, true) => self.nr_allocated += 1,
            (true, false) => self.nr_allocated -= 1,
            _ => {}
        }
        self.used.set(index, count > 0);
        if count > 1 {
            self.shared.insert(at.0, count);
        } else {
            self.shared.remove(&at.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CoreSpaceMap;
    use crate::error::Error;
    use crate::number::BlockNr;

    #[test]
    fn counts_go_up_and_down_again_and_never_below_zero_or_past_the_end() {
        let mut map = CoreSpaceMap::new(3);
        for count in 1..5 {
            assert_eq!(map.inc(BlockNr(1)).unwrap(), count);
        }
        assert_eq!(map.nr_allocated(), 1);
        for count in (0..4).rev() {
            assert_eq!(map.dec(BlockNr(1)).unwrap(), count);
        }
        assert_eq!(map.nr_allocated(), 0);
        assert!(matches!(map.dec(BlockNr(1)), Err(Error::CountUnderflow { at: BlockNr(1) })));
        assert!(matches!(map.inc(BlockNr(3)), Err(Error::OutOfRange { nr_blocks: 3, .. })));
        assert!(matches!(map.count(BlockNr(u64::MAX)), Err(Error::OutOfRange { .. })));
    }

    #[test]
    fn every_block_is_allocated_once() {
        let mut map = CoreSpaceMap::new(3);
        map.inc(BlockNr(1)).unwrap();
        assert_eq!(map.alloc().unwrap(), BlockNr(0));
        assert_eq!(map.alloc().unwrap(), BlockNr(2));
        assert!(matches!(map.alloc(), Err(Error::NoSpace)));
    }
}
