//! The log of a disk's operations, and a check of the order that a commit must keep.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::number::BlockNr;

/// Block number of a superblock.
pub const SUPERBLOCK: BlockNr = BlockNr(0);

/// A kind of operation on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
}

/// A recorded operation on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Number of operations on the disk before this one.
    pub index: u64,
    /// Kind of the operation.
    pub kind: OperationKind,
    /// First block that was read or written. 0 for a flush.
    pub first: BlockNr,
    /// Number of blocks that were read or written. 0 for a flush.
    pub nr_blocks: u64,
    /// True if it succeeded. A write that failed may have written some sectors.
    pub succeeded: bool,
}

impl Operation {
    /// Returns whether it is a read or a write of the block at `at`.
    pub fn covers(&self, at: BlockNr) -> bool {
        self.first <= at && at < self.first.plus(self.nr_blocks)
    }
}

/// Returns all blocks that the writes in `log` cover, including failed writes.
pub fn written(log: &[Operation]) -> BTreeSet<BlockNr> {
    let writes = log.iter().filter(|operation| operation.kind == OperationKind::Write);
    writes.flat_map(|write| (0..write.nr_blocks).map(|at| write.first.plus(at))).collect()
}

/// A violated rule. Operations are identified by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The superblock was written while a block that it may refer to was not durable.
    #[error("operation {superblock} writes the superblock before operation {write} is flushed")]
    UnflushedBlock {
        /// The write of the superblock.
        superblock: u64,
        /// The last write before it.
        write: u64,
    },
    /// A block was written while the superblock was not durable. If the commit freed this block, a
    /// crash may leave it overwritten while the old superblock is still in place.
    #[error("operation {write} writes before operation {superblock}, the superblock, is flushed")]
    UnflushedSuperblock {
        /// The write of the superblock.
        superblock: u64,
        /// The write after it.
        write: u64,
    },
    /// The superblock was written together with other blocks.
    #[error("operation {superblock} writes the superblock together with other blocks")]
    SuperblockNotAlone {
        /// The write.
        superblock: u64,
    },
    /// A write or a flush followed after a failed write or flush.
    #[error("operation {operation} is done although operation {failed} failed")]
    AfterFailure {
        /// The operation that failed.
        failed: u64,
        /// The operation after it.
        operation: u64,
    },
    /// At the end there is a write that has not been flushed.
    #[error("operation {write} is never flushed")]
    NeverFlushed {
        /// The last write.
        write: u64,
    },
}

/// Checks the order of commits: all blocks that a superblock refers to are on the medium before
/// the superblock is written, and the superblock is on the medium before any later write. After a
/// failure nothing is written.
///
/// The check does not depend on chance: it finds a missing flush in every run, whether or not a
/// crash would have done harm.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The last write that is not flushed yet.
    unflushed: Option<Write>,
    /// Index of the write or flush that failed.
    failed: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    index: u64,
    is_superblock: bool,
}

impl Order {
    /// Starts with a disk on which nothing is pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the operations in `log`, which follow those that were checked before.
    ///
    /// # Errors
    /// The first violated rule. The state of the check is then undefined.
    pub fn observe(&mut self, log: &[Operation]) -> Result<(), OrderError> {
        log.iter().try_for_each(|operation| self.step(operation))
    }

    /// Checks that no write is left unflushed, as is required after a commit.
    ///
    /// # Errors
    /// [`OrderError::NeverFlushed`] if there is an unflushed write.
    pub fn finish(&self) -> Result<(), OrderError> {
        match self.unflushed {
            Some(Write { index: write, .. }) => Err(OrderError::NeverFlushed { write }),
            None => Ok(()),
        }
    }

    fn step(&mut self, operation: &Operation) -> Result<(), OrderError> {
        if operation.kind == OperationKind::Read {
            return Ok(());
        }
        if let Some(failed) = self.failed {
            return Err(OrderError::AfterFailure { failed, operation: operation.index });
        }
        if !operation.succeeded {
            self.failed = Some(operation.index);
        }
        match operation.kind {
            OperationKind::Write => self.write(operation),
            OperationKind::Flush if operation.succeeded => {
                self.unflushed = None;
                Ok(())
            }
            OperationKind::Flush | OperationKind::Read => Ok(()),
        }
    }

    fn write(&mut self, operation: &Operation) -> Result<(), OrderError> {
        let index = operation.index;
        let is_superblock = operation.covers(SUPERBLOCK);
        if is_superblock && operation.nr_blocks > 1 {
            return Err(OrderError::SuperblockNotAlone { superblock: index });
        }
        match self.unflushed {
            Some(Write { index: superblock, is_superblock: true }) => {
                Err(OrderError::UnflushedSuperblock { superblock, write: index })
            }
            Some(Write { index: write, is_superblock: false }) if is_superblock => {
                Err(OrderError::UnflushedBlock { superblock: index, write })
            }
            _ => {
                self.unflushed = Some(Write { index, is_superblock });
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Operation, OperationKind, Order, OrderError, written};
    use crate::number::BlockNr;

    /// Makes a log from one word per operation: `r`, `f`, or `w` with the first and the last block,
    /// with a leading `!` if it failed.
    fn log(words: &str) -> Vec<Operation> {
        let operation = |(index, word): (usize, &str)| {
            let (succeeded, word) = match word.strip_prefix('!') {
                Some(word) => (false, word),
                None => (true, word),
            };
            let (kind, range) = match word.split_at(1) {
                ("w", range) => (OperationKind::Write, range.split_once('-').unwrap()),
                ("f", _) => (OperationKind::Flush, ("0", "")),
                (_, _) => (OperationKind::Read, ("0", "7")),
            };
            let first: u64 = range.0.parse().unwrap();
            let end = range.1.parse().map_or(first, |last: u64| last + 1);
            let (index, nr_blocks) = (index as u64, end - first);
            Operation { index, kind, first: BlockNr(first), nr_blocks, succeeded }
        };
        words.split(' ').enumerate().map(operation).collect()
    }

    fn watch(words: &str) -> Result<(), OrderError> {
        let mut order = Order::new();
        order.observe(&log(words))?;
        order.finish()
    }

    #[test]
    fn commits_in_order_pass() {
        assert_eq!(watch("r w3-4 w1-1 r f w0-0 r f w2-2 f w0-0 f"), Ok(()));
        assert_eq!(watch("f w0-0 f r"), Ok(()));
        assert_eq!(watch("w1-1 f !w2-2 r r"), Err(OrderError::NeverFlushed { write: 2 }));
    }

    #[test]
    fn every_broken_rule_is_named() {
        for (words, expected) in [
            ("w1-1 w0-0 f", OrderError::UnflushedBlock { superblock: 1, write: 0 }),
            ("w1-1 f w2-2 w3-9 r w0-0", OrderError::UnflushedBlock { superblock: 5, write: 3 }),
            ("w1-1 f w0-0 w2-2 f", OrderError::UnflushedSuperblock { superblock: 2, write: 3 }),
            ("w0-0 w0-0 f", OrderError::UnflushedSuperblock { superblock: 0, write: 1 }),
            ("w0-1 f", OrderError::SuperblockNotAlone { superblock: 0 }),
            ("w1-1 !f f", OrderError::AfterFailure { failed: 1, operation: 2 }),
            ("!w1-1 r f", OrderError::AfterFailure { failed: 0, operation: 2 }),
            ("w1-1 f w0-0 r", OrderError::NeverFlushed { write: 2 }),
            ("w1-1 !f", OrderError::NeverFlushed { write: 0 }),
        ] {
            assert_eq!(watch(words), Err(expected), "{words}");
        }
    }

    #[test]
    fn a_log_may_be_watched_in_pieces() {
        let log = log("w1-1 f w0-0 w2-2");
        let mut order = Order::new();
        for piece in log[..3].chunks(1) {
            assert_eq!(order.observe(piece), Ok(()));
        }
        assert!(order.observe(&log[3..]).is_err());
    }

    #[test]
    fn the_blocks_written_are_those_of_all_writes() {
        let written: Vec<u64> =
            written(&log("r w3-5 f !w9-9 w4-4")).iter().map(|at| at.0).collect();
        assert_eq!(written, [3, 4, 5, 9]);
    }
}
