//! What btrees, arrays and space maps ask of whoever keeps their blocks.
//!
//! Reading and changing are different traits: code that is handed a [`Reader`] has nothing to
//! write with. [`Transaction`](crate::transaction::Transaction) is the writer; tests have one in
//! memory.

use std::sync::Arc;

use crate::block::{Block, BlockError, BlockKind, RawBlock};
use crate::device::ReadDevice;
use crate::error::{Error, Result};
use crate::number::BlockNr;

/// Gives out checked blocks.
pub trait Reader {
    /// The block at `at`, with checksum and block number verified as a `K`.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::Error::OutOfRange), [`Read`](crate::Error::Read) or
    /// [`Block`](crate::Error::Block).
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>>;
}

impl<R: Reader> Reader for &R {
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>> {
        (**self).read(at)
    }
}

/// What [`Writer::shadow`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Where the block that may be changed lies. The caller has to point its parent there.
    pub at: BlockNr,
    /// Whether the original stays in use elsewhere. Then what it refers to has got a second
    /// referrer in the shadow, and the caller has to count that.
    pub was_shared: bool,
}

/// Changes blocks by copy on write.
///
/// *Invariant:* a block that the last commit reaches is never changed where it lies. A block may
/// be [edited](Self::edit) only if it is new in this transaction: made by
/// [`new_block`](Self::new_block), or by [`shadow`](Self::shadow).
pub trait Writer: Reader {
    /// A block of zeroes with a reference count of one, which neither the last commit nor this
    /// transaction used for anything.
    ///
    /// # Errors
    /// [`NoSpace`](crate::Error::NoSpace).
    fn new_block<K: BlockKind>(&mut self) -> Result<BlockNr>;

    /// Gives up one reference to the block at `at` and returns a block with its content that may
    /// be edited: a copy, or the block itself if it is new in this transaction and not shared.
    fn shadow<K: BlockKind>(&mut self, at: BlockNr) -> Result<Shadow>;

    /// The block at `at`, which must be new in this transaction, to change. Its own block number
    /// and checksum are stored when it is written.
    ///
    /// # Panics
    /// If the block is not new in this transaction.
    fn edit<K: BlockKind>(&mut self, at: BlockNr) -> Result<&mut K::Disk>;

    /// References to the block at `at`.
    fn count(&self, at: BlockNr) -> Result<u32>;

    /// Adds a reference to the block at `at`.
    fn inc(&mut self, at: BlockNr) -> Result<()>;

    /// Takes a reference to the block at `at` away. At zero it is free from the next commit on;
    /// what it refers to is the caller's to give up.
    fn dec(&mut self, at: BlockNr) -> Result<()>;
}

/// A reader straight from a device: every block is read and checked each time.
///
/// For walks, which read each block once.
#[derive(Clone, Copy, Debug)]
pub struct DeviceReader<D>(pub D);

impl<D: ReadDevice> Reader for DeviceReader<D> {
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>> {
        let block = read_block(&self.0, at)?;
        Block::checked(block, at).map_err(bad_block::<K>(at))
    }
}

/// Reads the bytes at `at`, checking no more than that there is such a block.
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

/// Turns what is wrong with a block's bytes into the crate's error.
pub(crate) fn bad_block<K: BlockKind>(at: BlockNr) -> impl Fn(BlockError) -> Error {
    move |source| Error::Block { kind: K::NAME, at, source }
}
