//! The space map of a device other than the metadata device.

use super::counts::{Counts, Index};
use super::ledger::{Ledger, decremented, find_round, incremented};
use crate::btree::Btree;
use crate::error::{Error, Result};
use crate::format::{IndexEntry, SpaceMapRoot};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// An index in a btree. It has no size limit, and its nodes are copied on write like all others.
impl Index for Btree<IndexEntry> {
    fn get<R: Reader>(&self, reader: &R, bitmap: u64) -> Result<IndexEntry> {
        self.lookup(reader, bitmap)?.ok_or(Error::SpaceMap("the index lacks a bitmap"))
    }

    fn set<W: Writer>(&mut self, writer: &mut W, bitmap: u64, entry: IndexEntry) -> Result<()> {
        self.insert(writer, bitmap, entry)?;
        Ok(())
    }

    fn root(&self) -> BlockNr {
        Btree::root(self)
    }
}

/// Reference counts of the blocks of one device, stored in the metadata of another. Thin
/// provisioning counts its data blocks this way.
///
/// Changes stay in memory until [`commit`](Self::commit) writes them into a metadata transaction.
#[derive(Debug)]
pub struct DiskSpaceMap {
    counts: Counts<Btree<IndexEntry>>,
    ledger: Ledger,
    nr_blocks: u64,
    /// Block where the next search for a free block starts; kept across transactions.
    cursor: u64,
}

impl DiskSpaceMap {
    /// Creates a map of `nr_blocks` free blocks.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn create<W: Writer>(writer: &mut W, nr_blocks: u64) -> Result<Self> {
        let mut counts = Counts {
            nr_blocks: 0,
            nr_allocated: 0,
            index: Btree::create(writer)?,
            ref_counts: Btree::create(writer)?,
        };
        counts.extend(writer, nr_blocks)?;
        Ok(Self { counts, ledger: Ledger::default(), nr_blocks, cursor: 0 })
    }

    /// Opens the map with `root`, which [`commit`](Self::commit) returned. Reads nothing.
    ///
    /// The stored numbers of free and allocated blocks are not checked. Allocation uses only the
    /// bitmaps, so wrong numbers cannot mislead it.
    pub fn open(root: SpaceMapRoot) -> Self {
        let nr_blocks = root.nr_blocks.get();
        let counts = Counts {
            nr_blocks,
            nr_allocated: root.nr_allocated.get(),
            index: Btree::open(BlockNr(root.bitmap_root.get())),
            ref_counts: Btree::open(BlockNr(root.ref_count_root.get())),
        };
        Self { counts, ledger: Ledger::default(), nr_blocks, cursor: 0 }
    }

    /// Returns the number of blocks that the map covers.
    pub fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Returns the number of blocks with a count above zero, as of the last
    /// [`commit`](Self::commit).
    pub fn nr_allocated(&self) -> u64 {
        self.counts.nr_allocated
    }

    /// Extends the map by `more` blocks, which are free and can be used at once.
    ///
    /// # Errors
    /// [`Error::SpaceMap`] if the map would cover more than `u64::MAX` blocks.
    pub fn extend(&mut self, more: u64) -> Result<()> {
        self.nr_blocks = (self.nr_blocks.checked_add(more))
            .ok_or(Error::SpaceMap("more blocks than a number can count"))?;
        Ok(())
    }

    /// Returns the reference count of the block at `at`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] past the end, and those of the reader.
    pub fn count<R: Reader>(&self, reader: &R, at: BlockNr) -> Result<u32> {
        if at.0 >= self.nr_blocks {
            return Err(Error::OutOfRange { at, nr_blocks: self.nr_blocks });
        }
        match self.ledger.get(at) {
            Some(count) => Ok(count),
            None => self.counts.count(reader, at),
        }
    }

    /// Adds a reference to the block at `at`.
    ///
    /// # Errors
    /// Those of [`count`](Self::count), and [`Error::CountOverflow`].
    pub fn inc<R: Reader>(&mut self, reader: &R, at: BlockNr) -> Result<()> {
        let count = incremented(at, self.count(reader, at)?)?;
        self.ledger.set(at, count);
        Ok(())
    }

    /// Removes a reference to the block at `at`.
    ///
    /// # Errors
    /// Those of [`count`](Self::count), and [`Error::CountUnderflow`].
    pub fn dec<R: Reader>(&mut self, reader: &R, at: BlockNr) -> Result<()> {
        let count = decremented(at, self.count(reader, at)?)?;
        self.ledger.set(at, count);
        Ok(())
    }

    /// Allocates a block that neither the last commit nor this transaction used. Its count is one.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is no such block, and those of the reader.
    pub fn alloc<R: Reader>(&mut self, reader: &R) -> Result<BlockNr> {
        let usable = |at: u64| !self.ledger.touched(at);
        let find = |from, end| self.counts.find_free(reader, from, end, usable);
        let at = find_round(self.cursor, self.nr_blocks, find)?;
        self.cursor = at.0 + 1;
        self.ledger.set(at, 1);
        Ok(at)
    }

    /// Writes all changes and returns the root, which the superblock of the same transaction must
    /// hold. That transaction must be prepared and committed before the map is changed again: the
    /// map treats its written state as the last commit.
    ///
    /// # Errors
    /// Those of the writer. The transaction must then be aborted and the map opened again.
    pub fn commit<W: Writer>(&mut self, writer: &mut W) -> Result<SpaceMapRoot> {
        self.counts.extend(writer, self.nr_blocks)?;
        for (at, count) in self.ledger.take_unwritten() {
            self.counts.set(writer, at, count)?;
        }
        self.ledger = Ledger::default();
        Ok(self.counts.root())
    }
}
