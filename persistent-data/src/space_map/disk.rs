//! The space map of a device other than the metadata device.

use super::counts::{Counts, Index};
use super::ledger::{Ledger, decremented, find_round, incremented};
use crate::btree::Btree;
use crate::error::{Error, Result};
use crate::format::{IndexEntry, SpaceMapRoot};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// An index in a btree: it has no limit, and its nodes are copied on write like any other.
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

/// Reference counts of the blocks of some device, kept in the metadata of another: what thin
/// provisioning counts its data blocks with.
///
/// Changes stay in memory until [`commit`](Self::commit) writes them into a metadata transaction.
#[derive(Debug)]
pub struct DiskSpaceMap {
    counts: Counts<Btree<IndexEntry>>,
    ledger: Ledger,
    nr_blocks: u64,
    /// Where the search for a free block goes on, through all transactions.
    cursor: u64,
}

impl DiskSpaceMap {
    /// A map of `nr_blocks` free blocks.
    ///
    /// # Errors
    /// The writer's.
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

    /// The map that [`commit`](Self::commit) gave `root` for.
    ///
    /// Its figures of free and allocated blocks are taken as they are: allocation goes by the
    /// bitmaps alone, so that wrong ones cannot mislead it.
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

    /// Blocks that the map covers.
    pub fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Blocks with a count above zero, as of the last [`commit`](Self::commit).
    pub fn nr_allocated(&self) -> u64 {
        self.counts.nr_allocated
    }

    /// Makes the map cover `more` further blocks, which are free and can be used at once.
    ///
    /// # Errors
    /// [`Error::SpaceMap`] past `u64::MAX` blocks.
    pub fn extend(&mut self, more: u64) -> Result<()> {
        self.nr_blocks = (self.nr_blocks.checked_add(more))
            .ok_or(Error::SpaceMap("more blocks than a number can count"))?;
        Ok(())
    }

    /// References to the block at `at`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], and the reader's.
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
    /// As [`count`](Self::count), and [`Error::CountOverflow`].
    pub fn inc<R: Reader>(&mut self, reader: &R, at: BlockNr) -> Result<()> {
        let count = incremented(at, self.count(reader, at)?)?;
        self.ledger.set(at, count);
        Ok(())
    }

    /// Takes a reference to the block at `at` away.
    ///
    /// # Errors
    /// As [`count`](Self::count), and [`Error::CountUnderflow`].
    pub fn dec<R: Reader>(&mut self, reader: &R, at: BlockNr) -> Result<()> {
        let count = decremented(at, self.count(reader, at)?)?;
        self.ledger.set(at, count);
        Ok(())
    }

    /// A block that neither the last commit nor this transaction used, with a count of one now.
    ///
    /// # Errors
    /// [`Error::NoSpace`], and the reader's.
    pub fn alloc<R: Reader>(&mut self, reader: &R) -> Result<BlockNr> {
        let usable = |at: u64| !self.ledger.touched(at);
        let find = |from, end| self.counts.find_free(reader, from, end, usable);
        let at = find_round(self.cursor, self.nr_blocks, find)?;
        self.cursor = at.0 + 1;
        self.ledger.set(at, 1);
        Ok(at)
    }

    /// Writes all changes, and gives the root to be stored in the superblock of the same
    /// transaction. That has to be prepared and committed before the map is changed again: the map
    /// takes what it has written for the last commit.
    ///
    /// # Errors
    /// The writer's. Then the transaction has to be aborted, and the map opened again.
    pub fn commit<W: Writer>(&mut self, writer: &mut W) -> Result<SpaceMapRoot> {
        self.counts.extend(writer, self.nr_blocks)?;
        for (at, count) in self.ledger.take_unwritten() {
            self.counts.set(writer, at, count)?;
        }
        self.ledger = Ledger::default();
        Ok(self.counts.root())
    }
}
