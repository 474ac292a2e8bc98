//! The changes of a transaction to a space map, in memory. [`super::metadata`] and
//! [`super::disk`] use it.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::number::BlockNr;

/// The counts that this transaction has changed. They override those of the last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// Present count of every block that was touched since the last commit.
    changed: HashMap<u64, u32>,
    /// Blocks whose present count is not in the bitmaps yet. May name a block twice.
    unwritten: Vec<u64>,
}

impl Ledger {
    /// Returns the count of `at` if this transaction has touched it.
    pub(super) fn get(&self, at: BlockNr) -> Option<u32> {
        self.changed.get(&at.0).copied()
    }

    /// Returns whether this transaction has touched the count of `at`.
    pub(super) fn touched(&self, at: u64) -> bool {
        self.changed.contains_key(&at)
    }

    pub(super) fn set(&mut self, at: BlockNr, count: u32) {
        self.changed.insert(at.0, count);
        self.unwritten.push(at.0);
    }

    /// Returns whether all present counts are in the bitmaps.
    pub(super) fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    /// Returns the changes since the previous call, each block once, in ascending order.
    pub(super) fn take_unwritten(&mut self) -> Vec<(BlockNr, u32)> {
        let mut blocks = std::mem::take(&mut self.unwritten);
        blocks.sort_unstable();
        blocks.dedup();
        blocks.into_iter().map(|at| (BlockNr(at), self.changed[&at])).collect()
    }
}

/// Calls `find` for the ranges `cursor..nr_blocks` and `0..cursor` and returns its first result.
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

/// Returns `count` plus one, or [`Error::CountOverflow`].
pub(super) fn incremented(at: BlockNr, count: u32) -> Result<u32> {
    count.checked_add(1).ok_or(Error::CountOverflow { at })
}

/// Returns `count` minus one, or [`Error::CountUnderflow`].
pub(super) fn decremented(at: BlockNr, count: u32) -> Result<u32> {
    count.checked_sub(1).ok_or(Error::CountUnderflow { at })
}
