//! Errors of the crate.

use std::io;

use thiserror::Error;

use crate::block::BlockError;
use crate::number::BlockNr;

/// What is wrong with the inside of an intact btree node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The flags name neither an internal node nor a leaf.
    #[error("flags {0:#x} name neither an internal node nor a leaf")]
    Flags(u32),
    /// The values have another size than the tree's.
    #[error("values of {found} bytes, expected {expected}")]
    ValueSize {
        /// What the header says.
        found: u32,
        /// What the tree's type, or an internal node, has.
        expected: u32,
    },
    /// The capacity is not the one that the value size gives.
    #[error("room for {found} entries, expected {expected}")]
    Capacity {
        /// What the header says.
        found: u32,
        /// What a node with values of this size has.
        expected: u32,
    },
    /// More entries than there is room for.
    #[error("{nr_entries} entries in a node with room for {max_entries}")]
    Overfull {
        /// Entries, by the header.
        nr_entries: u32,
        /// The capacity.
        max_entries: u32,
    },
    /// An internal node, or a node below the root, without entries.
    #[error("no entries")]
    Empty,
    /// Keys do not strictly ascend.
    #[error("key {key} at entry {entry} is not above the key before it")]
    KeyOrder {
        /// The entry whose key is not above its predecessor's.
        entry: usize,
        /// Its key.
        key: u64,
    },
    /// A key lies outside what the parent gives the node.
    #[error("key {key} is outside of what its parent holds for it")]
    KeyRange {
        /// The key.
        key: u64,
    },
    /// A leaf beside internal nodes, or an internal node beside leaves: all leaves of a tree are
    /// equally deep.
    #[error("not at the same depth as the leaves before it")]
    Level,
    /// Deeper than a tree of a full device can be: there must be a cycle.
    #[error("deeper than any tree can be")]
    TooDeep,
}

/// What is wrong with the inside of an intact array block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// The values have another size than the array's.
    #[error("values of {found} bytes, expected {expected}")]
    ValueSize {
        /// What the header says.
        found: u32,
        /// What the array's type has.
        expected: u32,
    },
    /// The capacity is not the one that the value size gives.
    #[error("room for {found} values, expected {expected}")]
    Capacity {
        /// What the header says.
        found: u32,
        /// What an array block with values of this size has.
        expected: u32,
    },
    /// Not as many values as this block of the array must have.
    #[error("{found} values, expected {expected}")]
    Entries {
        /// What the header says.
        found: u32,
        /// All that fit, or, in the last block, the rest.
        expected: u32,
    },
    /// The array has no such block.
    #[error("array block {index} is missing")]
    Missing {
        /// The index of the block in the array.
        index: u64,
    },
}

/// Why an operation on persistent data failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The device could not be read.
    #[error("cannot read block {at}")]
    Read {
        /// The first block of the read.
        at: BlockNr,
        /// What the device said.
        source: io::Error,
    },
    /// The device could not be written. The transaction is spent.
    #[error("cannot write block {at}")]
    Write {
        /// The first block of the write.
        at: BlockNr,
        /// What the device said.
        source: io::Error,
    },
    /// The device could not be flushed. The transaction is spent.
    #[error("cannot flush the device")]
    Flush {
        /// What the device said.
        source: io::Error,
    },
    /// A block number past the end of the device, or of what the space map covers.
    #[error("block {at} is past the end at block {nr_blocks}")]
    OutOfRange {
        /// The block number.
        at: BlockNr,
        /// The first number that is too large.
        nr_blocks: u64,
    },
    /// A block is not what it must be.
    #[error("{kind} at block {at}: {source}")]
    Block {
        /// The kind that was expected.
        kind: &'static str,
        /// Where.
        at: BlockNr,
        /// What is wrong.
        source: BlockError,
    },
    /// A btree node does not make sense.
    #[error("btree node at block {at}: {source}")]
    Node {
        /// Where.
        at: BlockNr,
        /// What is wrong.
        source: NodeError,
    },
    /// An array block does not make sense, or is missing.
    #[error("array block at block {at}: {source}")]
    Array {
        /// Where; for a missing block, the root of the array.
        at: BlockNr,
        /// What is wrong.
        source: ArrayError,
    },
    /// The space map's root does not make sense.
    #[error("space map: {0}")]
    SpaceMap(&'static str),
    /// No free block is left that the last commit does not use either.
    #[error("no free block is left")]
    NoSpace,
    /// A block that nothing refers to would lose a reference.
    #[error("the reference count of block {at} is already zero")]
    CountUnderflow {
        /// The block.
        at: BlockNr,
    },
    /// A block would get more references than 32 bits can count.
    #[error("the reference count of block {at} is at its maximum")]
    CountOverflow {
        /// The block.
        at: BlockNr,
    },
    /// An index past the end of an array or a bitset.
    #[error("entry {index} is past the end at entry {len}")]
    Index {
        /// The index.
        index: u64,
        /// How many entries there are.
        len: u64,
    },
    /// An earlier operation of the transaction failed half-way. Only aborting it leads on.
    #[error("an earlier change failed; abort the transaction")]
    Broken,
    /// An earlier write or flush failed, so what the device holds is not known. Only opening it
    /// again tells.
    #[error("an earlier write or flush failed; open the metadata again")]
    Spent,
}

/// A result with the crate's error.
pub type Result<T> = std::result::Result<T, Error>;
