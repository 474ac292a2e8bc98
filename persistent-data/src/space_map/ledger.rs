//! What a transaction has changed of a space map.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::number::BlockNr;

/// Counts that this transaction has changed, over those of the last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// The present count of every block that was touched since the last commit.
    changed: HashMap<u64, u32>,
    /// Those whose present count is not in the bitmaps yet. May name a block twice.
    unwritten: Vec<u64>,
}

impl Ledger {
    /// The count of `at`, if this transaction has touched it.
    pub(super) fn get(&self, at: BlockNr) -> Option<u32> {
        self.changed.get(&at.0).copied()
    }

    /// Whether this transaction has touched the count of `at`.
    pub(super) fn touched(&self, at: u64) -> bool {
        self.changed.contains_key(&at)
    }

    pub(super) fn set(&mut self, at: BlockNr, count: u32) {
        self.changed.insert(at.0, count);
        self.unwritten.push(at.0);
    }

    /// Whether all present counts are in the bitmaps.
    pub(super) fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// What has changed since this was last asked, each block once, in ascending order.
    pub(super) fn take_unwritten(&mut self) -> Vec<(BlockNr, u32)> {
        let mut blocks = std::mem::take(&mut self.unwritten);
        blocks.sort_unstable();
        blocks.dedup();
        blocks.into_iter().map(|at| (BlockNr(at), self.changed[&at])).collect()
    }
}

/// What `find` finds in a range of blocks, going round a device of `nr_blocks` from `cursor` on.
pub(super) fn find_round(
    cursor: u64,
    nr_blocks: u64,
    find: impl Fn(u64, u64) -> Result<Option<BlockNr>>,
) -> Result<BlockNr> {
    let found = match find(cursor, nr_blocks)? {
        None => find(0, cursor)?,
        found => found,
    };
    found.ok_or(Error::NoSpace)
}

/// `count` and one more.
pub(super) fn incremented(at: BlockNr, count: u32) -> Result<u32> {
    count.checked_add(1).ok_or(Error::CountOverflow { at })
}

/// `count` and one less.
pub(super) fn decremented(at: BlockNr, count: u32) -> Result<u32> {
    count.checked_sub(1).ok_or(Error::CountUnderflow { at })
}
