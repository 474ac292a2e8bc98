//! The interface between data structures and the storage of their blocks.
//!
//! Btrees, arrays and space maps call it. Reading and changing are separate traits: code that has
//! only a [`Reader`] cannot write. [`Transaction`](crate::transaction::Transaction) implements
//! [`Writer`], and tests have an implementation in memory.

use std::sync::Arc;

use crate::block::{Block, BlockError, BlockKind, RawBlock};
use crate::device::ReadDevice;
use crate::error::{Error, Result};
use crate::number::BlockNr;

/// Reads and checks blocks.
pub trait Reader {
    /// Returns the block at `at` as a `K`, with checksum and block number verified.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::Error::OutOfRange) past the end, [`Read`](crate::Error::Read) if the
    /// device cannot be read, and [`Block`](crate::Error::Block) if the block is not a valid `K`.
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>>;
}

impl<R: Reader> Reader for &R {
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>> {
        (**self).read(at)
    }
}

/// Result of [`Writer::shadow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Number of the block that may be edited. The caller must point the parent to it.
    pub at: BlockNr,
    /// True if the original stays in use elsewhere. The shadow is then a second referrer to
    /// everything that the block refers to, and the caller must count those references.
    pub was_shared: bool,
}

/// Changes blocks by copy-on-write.
///
/// *Invariant:* a block that the last commit reaches is never changed in place. A block may be
/// [edited](Self::edit) only if it is new in this transaction, that is if it was made by
/// [`new_block`](Self::new_block) or [`shadow`](Self::shadow).
pub trait Writer: Reader {
    /// Allocates a block of zeroes with a reference count of one. Neither the last commit nor this
    /// transaction used the block before.
    ///
    /// # Errors
    /// [`NoSpace`](crate::Error::NoSpace) if no such block is left.
    fn new_block<K: BlockKind>(&mut self) -> Result<BlockNr>;

    /// Drops one reference to the block at `at` and returns a block with the same content that may
    /// be edited: a copy, or the block itself if it is new in this transaction and not shared.
    fn shadow<K: BlockKind>(&mut self, at: BlockNr) -> Result<Shadow>;

    /// Returns the block at `at`, which must be new in this transaction, for changes. Its own block
    /// number and its checksum are stored when it is written.
    ///
    /// # Panics
    /// If the block is not new in this transaction.
    fn edit<K: BlockKind>(&mut self, at: BlockNr) -> Result<&mut K::Disk>;

    /// Returns the reference count of the block at `at`.
    fn count(&self, at: BlockNr) -> Result<u32>;

    /// Adds a reference to the block at `at`.
    fn inc(&mut self, at: BlockNr) -> Result<()>;

    /// Removes a reference to the block at `at`. A block with a count of zero is free from the next
    /// commit on. The caller must drop the references that the block itself holds.
    fn dec(&mut self, at: BlockNr) -> Result<()>;
}

/// A reader that reads and checks each block from the device every time.
///
/// It is meant for walks, which read each block once.
#[derive(Clone, Copy, Debug)]
pub struct DeviceReader<D>(pub D);

impl<D: ReadDevice> Reader for DeviceReader<D> {
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>> {
        let block = read_block(&self.0, at)?;
        Block::checked(block, at).map_err(bad_block::<K>(at))
    }
}

/// Reads the block at `at`. Checks only that the device has such a block.
pub(crate) fn read_block<D: ReadDevice>(device: &D, at: BlockNr) -> Result<Arc<RawBlock>> {
    let nr_blocks = device.nr_blocks();
    if at.0 >= nr_blocks {
        return Err(Error::OutOfRange { at, nr_blocks });
    }
    let mut block = Arc::new(RawBlock::ZERO);
    let buffer = Arc::get_mut(&mut block).expect("it has just been made");
    device.read(at, std::slice::from_mut(buffer)).map_err(|source| Error::Read { at, source })?;
    Ok(block)
}

/// Converts a [`BlockError`] of the block at `at` to [`Error::Block`].
pub(crate) fn bad_block<K: BlockKind>(at: BlockNr) -> impl Fn(BlockError) -> Error {
    move |source| Error::Block { kind: K::NAME, at, source }
}
