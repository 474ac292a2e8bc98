//! The errors of the crate.

use std::io;

use thiserror::Error;

use crate::block::BlockError;
use crate::number::BlockNr;

/// A defect inside a btree node whose checksum and block number are correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The flags name neither an internal node nor a leaf.
    #[error("flags {0:#x} name neither an internal node nor a leaf")]
    Flags(u32),
    /// The values do not have the tree's value size.
    #[error("values of {found} bytes, expected {expected}")]
    ValueSize {
        /// The size in the header, in bytes.
        found: u32,
        /// The size for the tree's type, or for an internal node.
        expected: u32,
    },
    /// The capacity does not follow from the value size.
    #[error("room for {found} entries, expected {expected}")]
    Capacity {
        /// The capacity in the header, in entries.
        found: u32,
        /// The capacity of a node with values of this size.
        expected: u32,
    },
    /// There are more entries than fit.
    #[error("{nr_entries} entries in a node with room for {max_entries}")]
    Overfull {
        /// Number of entries in the header.
        nr_entries: u32,
        /// The capacity.
        max_entries: u32,
    },
    /// An internal node, or a node below the root, has no entries.
    #[error("no entries")]
    Empty,
    /// The keys do not strictly ascend.
    #[error("key {key} at entry {entry} is not above the key before it")]
    KeyOrder {
        /// The entry whose key is not above the key before it.
        entry: usize,
        /// Its key.
        key: u64,
    },
    /// A key lies outside the range that the parent gives the node.
    #[error("key {key} is outside of what its parent holds for it")]
    KeyRange {
        /// The key.
        key: u64,
    },
    /// A leaf is beside internal nodes, or an internal node beside leaves. All leaves of a tree
    /// have the same depth.
    #[error("not at the same depth as the leaves before it")]
    Level,
    /// The node is deeper than any tree on a full device: there must be a cycle.
    #[error("deeper than any tree can be")]
    TooDeep,
}

/// A defect inside an array block whose checksum and block number are correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// The values do not have the array's value size.
    #[error("values of {found} bytes, expected {expected}")]
    ValueSize {
        /// The size in the header, in bytes.
        found: u32,
        /// The size for the array's type.
        expected: u32,
    },
    /// The capacity does not follow from the value size.
    #[error("room for {found} values, expected {expected}")]
    Capacity {
        /// The capacity in the header, in values.
        found: u32,
        /// The capacity of an array block with values of this size.
        expected: u32,
    },
    /// The block does not have the number of values that its place in the array requires.
    #[error("{found} values, expected {expected}")]
    Entries {
        /// The number in the header.
        found: u32,
        /// The capacity; in the last block, the remaining values.
        expected: u32,
    },
    /// The array has no such block.
    #[error("array block {index} is missing")]
    Missing {
        /// The index of the block in the array.
        index: u64,
    },
}

/// An error of an operation on persistent data.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A read from the device failed.
    #[error("cannot read block {at}")]
    Read {
        /// The first block of the read.
        at: BlockNr,
        /// The error of the device.
        source: io::Error,
    },
    /// A write to the device failed. The transaction is spent.
    #[error("cannot write block {at}")]
    Write {
        /// The first block of the write.
        at: BlockNr,
        /// The error of the device.
        source: io::Error,
    },
    /// A flush of the device failed. The transaction is spent.
    #[error("cannot flush the device")]
    Flush {
        /// The error of the device.
        source: io::Error,
    },
    /// A block number is past the end of the device or of the space map.
    #[error("block {at} is past the end at block {nr_blocks}")]
    OutOfRange {
        /// The block number.
        at: BlockNr,
        /// The first block number that is out of range.
        nr_blocks: u64,
    },
    /// A block has a bad checksum or another block's number.
    #[error("{kind} at block {at}: {source}")]
    Block {
        /// The kind that was expected.
        kind: &'static str,
        /// Number of the block.
        at: BlockNr,
        /// The defect.
        source: BlockError,
    },
    /// A btree node is inconsistent.
    #[error("btree node at block {at}: {source}")]
    Node {
        /// Number of the block.
        at: BlockNr,
        /// The defect.
        source: NodeError,
    },
    /// An array block is inconsistent or missing.
    #[error("array block at block {at}: {source}")]
    Array {
        /// Number of the block; for a missing block, the root of the array.
        at: BlockNr,
        /// The defect.
        source: ArrayError,
    },
    /// The space map is inconsistent.
    #[error("space map: {0}")]
    SpaceMap(&'static str),
    /// No block is left that is free now and was free in the last commit.
    #[error("no free block is left")]
    NoSpace,
    /// A block with a count of zero would lose a reference.
    #[error("the reference count of block {at} is already zero")]
    CountUnderflow {
        /// The block.
        at: BlockNr,
    },
    /// A reference count would not fit in 32 bits.
    #[error("the reference count of block {at} is at its maximum")]
    CountOverflow {
        /// The block.
        at: BlockNr,
    },
    /// An index is past the end of an array or a bitset.
    #[error("entry {index} is past the end at entry {len}")]
    Index {
        /// The index.
        index: u64,
        /// Number of entries.
        len: u64,
    },
    /// An earlier operation of the transaction failed half-way. The transaction must be aborted.
    #[error("an earlier change failed; abort the transaction")]
    Broken,
    /// An earlier write or flush failed, so the content of the device is unknown. The metadata must
    /// be opened again.
    #[error("an earlier write or flush failed; open the metadata again")]
    Spent,
}

/// Result with the crate's error.
pub type Result<T> = std::result::Result<T, Error>;
