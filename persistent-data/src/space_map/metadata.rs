//! The space map of the metadata device, which also counts its own blocks.
//!
//! # The recursion
//!
//! To write a count, a bitmap must be shadowed. This allocates one block and frees another, which
//! changes two more counts, perhaps in other bitmaps. The index and the tree of large counts are on
//! the same device and have the same effect.
//!
//! The map solves this with a fixed point instead of a recursion. Every change of a count goes into
//! the `Ledger`, in memory. Allocation needs only the ledger and the counts of the *last commit*,
//! which do not change within a transaction. At the end of the transaction the map writes the
//! unwritten counts of the ledger into the bitmaps. This may add to the ledger, so the step is
//! repeated until no counts are left. The loop ends because a transaction shadows each bitmap, the
//! index and each tree node at most once: when all of them are shadowed, writing counts changes no
//! more counts. A commit that touches one bitmap needs two passes.
//!
//! A new map and a growing map work the same way: blocks past the end of the last commit's counts
//! have a count of zero and can be allocated at once, even for the bitmaps that will cover them.

use super::counts::{Counts, Index, nr_bitmaps};
use super::ledger::{Ledger, decremented, find_round, incremented};
use crate::btree::Btree;
use crate::error::{Error, Result};
use crate::format::{
    Bitmap, ENTRIES_PER_BITMAP, INDEX_ENTRIES, IndexBlock, IndexEntry, MAX_METADATA_BLOCKS,
    SpaceMapRoot,
};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// The index in memory, and the number of its block.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockIndex {
    at: BlockNr,
    entries: Vec<IndexEntry>,
}

impl Index for BlockIndex {
    fn get<R: Reader>(&self, _: &R, bitmap: u64) -> Result<IndexEntry> {
        usize::try_from(bitmap)
            .ok()
            .and_then(|bitmap| self.entries.get(bitmap))
            .copied()
            .ok_or(Error::SpaceMap("the index lacks a bitmap"))
    }

    fn set<W: Writer>(&mut self, _: &mut W, bitmap: u64, entry: IndexEntry) -> Result<()> {
        match usize::try_from(bitmap) {
            Ok(bitmap) if bitmap < self.entries.len() => self.entries[bitmap] = entry,
            Ok(bitmap) if bitmap == self.entries.len() && bitmap < INDEX_ENTRIES => {
                self.entries.push(entry);
            }
            _ => return Err(Error::SpaceMap("the index has no room for another bitmap")),
        }
        Ok(())
    }

    fn root(&self) -> BlockNr {
        self.at
    }
}

/// The counts of the metadata device's blocks. A [transaction](crate::transaction) owns it.
#[derive(Clone, Debug)]
pub(crate) struct MetadataSpaceMap {
    /// Counts of the last commit. `None` before the first commit.
    committed: Option<Counts<BlockIndex>>,
    /// Counts that the next commit stores. They differ from `committed` once they are written.
    next: Option<Counts<BlockIndex>>,
    ledger: Ledger,
    nr_blocks: u64,
    /// Block where the next search for a free block starts; kept across transactions.
    cursor: u64,
    /// True if the next write also zeroes unused parts.
    tidying: bool,
}

/// Returns how many blocks of a device of `device_blocks` the map covers. The kernel's limit is
/// 15.9 GiB.
pub fn mapped_blocks(device_blocks: u64) -> u64 {
    device_blocks.min(MAX_METADATA_BLOCKS)
}

impl MetadataSpaceMap {
    /// Creates a map of free blocks that is not on a device yet.
    pub(crate) fn create(device_blocks: u64) -> Self {
        Self {
            committed: None,
            next: None,
            ledger: Ledger::default(),
            nr_blocks: mapped_blocks(device_blocks),
            cursor: 0,
            tidying: false,
        }
    }

    /// Opens the map that a superblock points to.
    ///
    /// The free counts and hints of the index, and the number of allocated blocks, are recomputed
    /// from the bitmaps.
    ///
    /// # Errors
    /// [`Error::SpaceMap`] if the map covers no blocks or more than the device has, and those of
    /// the reader.
    pub(crate) fn open<R: Reader>(
        reader: &R,
        root: SpaceMapRoot,
        device_blocks: u64,
    ) -> Result<Self> {
        let nr_blocks = root.nr_blocks.get();
        if nr_blocks == 0 {
            return Err(Error::SpaceMap("it covers no blocks"));
        }
        if nr_blocks > mapped_blocks(device_blocks) {
            return Err(Error::SpaceMap("it covers more blocks than there are"));
        }
        let at = BlockNr(root.bitmap_root.get());
        let index = reader.read::<IndexBlock>(at)?;
        let mut entries = index.entries[..nr_bitmaps(nr_blocks) as usize].to_vec();
        let mut nr_allocated = 0;
        for entry in &mut entries {
            let bitmap = reader.read::<Bitmap>(BlockNr(entry.blocknr.get()))?;
            let nr_free = bitmap.nr_free();
            nr_allocated += ENTRIES_PER_BITMAP as u64 - u64::from(nr_free);
            let first_free = bitmap.first_free(0, ENTRIES_PER_BITMAP).unwrap_or(ENTRIES_PER_BITMAP);
            entry.nr_free.set(nr_free);
            entry.none_free_before.set(first_free as u32);
        }
        let counts = Counts {
            nr_blocks,
            nr_allocated,
            index: BlockIndex { at, entries },
            ref_counts: Btree::open(BlockNr(root.ref_count_root.get())),
        };
        Ok(Self {
            committed: Some(counts.clone()),
            next: Some(counts),
            ledger: Ledger::default(),
            nr_blocks,
            cursor: 0,
            tidying: false,
        })
    }

    pub(crate) fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// True if there has been a commit.
    pub(crate) fn is_on_device(&self) -> bool {
        self.committed.is_some()
    }

    /// Returns the number of blocks in use as of the last commit.
    pub(crate) fn nr_allocated(&self) -> u64 {
        self.committed.as_ref().map_or(0, |counts| counts.nr_allocated)
    }

    /// Extends the map to the size of a device that has grown.
    pub(crate) fn extend(&mut self, device_blocks: u64) {
        self.nr_blocks = self.nr_blocks.max(mapped_blocks(device_blocks));
    }

    pub(crate) fn count<R: Reader>(&self, reader: &R, at: BlockNr) -> Result<u32> {
        if at.0 >= self.nr_blocks {
            return Err(Error::OutOfRange { at, nr_blocks: self.nr_blocks });
        }
        match (self.ledger.get(at), &self.committed) {
            (Some(count), _) => Ok(count),
            (None, Some(counts)) => counts.count(reader, at),
            (None, None) => Ok(0),
        }
    }

    /// Returns the present count of `at` plus one, which the caller must [`set`](Self::set).
    pub(crate) fn incremented<R: Reader>(&self, reader: &R, at: BlockNr) -> Result<u32> {
        incremented(at, self.count(reader, at)?)
    }

    /// Returns the present count of `at` minus one, which the caller must [`set`](Self::set).
    pub(crate) fn decremented<R: Reader>(&self, reader: &R, at: BlockNr) -> Result<u32> {
        decremented(at, self.count(reader, at)?)
    }

    pub(crate) fn set(&mut self, at: BlockNr, count: u32) {
        self.ledger.set(at, count);
    }

    /// Makes the next write also zero unused parts.
    pub(crate) fn tidy(&mut self) {
        self.tidying = true;
    }

    /// Returns a block that can be allocated. The caller must [`take`](Self::take) it.
    ///
    /// Like the kernel, the search goes round the device, so that blocks of earlier commits stay
    /// readable for as long as possible. Repair depends on them.
    pub(crate) fn find_free<R: Reader>(&self, reader: &R) -> Result<BlockNr> {
        let usable = |at: u64| !self.ledger.touched(at);
        let find = |from: u64, end: u64| match &self.committed {
            Some(counts) => counts.find_free(reader, from, end, usable),
            None => Ok((from..end).find(|&at| usable(at)).map(BlockNr)),
        };
        find_round(self.cursor, self.nr_blocks, find)
    }

    /// Sets the count of a block that was found free to one.
    pub(crate) fn take(&mut self, at: BlockNr) {
        self.set(at, 1);
        self.cursor = at.0 + 1;
    }

    /// Returns the root of the last commit if no count has changed since.
    fn unchanged_root(&self) -> Option<SpaceMapRoot> {
        let counts = self.next.as_ref()?;
        let unchanged =
            counts.nr_blocks == self.nr_blocks && self.ledger.is_written() && !self.tidying;
        unchanged.then(|| counts.root())
    }

    /// Makes the written state the last commit. Called after the superblock is durable.
    pub(crate) fn committed(&mut self) {
        self.committed.clone_from(&self.next);
        self.ledger = Ledger::default();
        self.tidying = false;
    }

    /// Reverts to the last commit.
    pub(crate) fn abort(&mut self) {
        self.next.clone_from(&self.committed);
        self.ledger = Ledger::default();
        self.tidying = false;
        if let Some(counts) = &self.committed {
            self.nr_blocks = counts.nr_blocks;
        }
    }
}

/// A writer whose own counts are in a [`MetadataSpaceMap`].
pub(crate) trait Counted: Writer + Sized {
    fn space_map(&mut self) -> &mut MetadataSpaceMap;

    /// Writes all changed counts into blocks of the transaction, until no more counts change, and
    /// returns the root, which the superblock must hold. Without changes it writes nothing.
    fn write_space_map(&mut self) -> Result<SpaceMapRoot> {
        if let Some(root) = self.space_map().unchanged_root() {
            return Ok(root);
        }
        let mut counts = match self.space_map().next.take() {
            Some(counts) => counts,
            None => Counts {
                nr_blocks: 0,
                nr_allocated: 0,
                index: BlockIndex { at: self.new_block::<IndexBlock>()?, entries: Vec::new() },
                ref_counts: Btree::create(self)?,
            },
        };
        counts.index.at = self.shadow::<IndexBlock>(counts.index.at)?.at;
        let nr_blocks = self.space_map().nr_blocks;
        counts.extend(self, nr_blocks)?;
        if self.space_map().tidying {
            counts.tidy(self)?;
        }
        loop {
            let changes = self.space_map().ledger.take_unwritten();
            if changes.is_empty() {
                break;
            }
            for (at, count) in changes {
                counts.set(self, at, count)?;
            }
        }
        let disk = self.edit::<IndexBlock>(counts.index.at)?;
        disk.padding.set(0);
        disk.entries = [IndexEntry::default(); INDEX_ENTRIES];
        disk.entries[..counts.index.entries.len()].copy_from_slice(&counts.index.entries);
        let root = counts.root();
        self.space_map().next = Some(counts);
        Ok(root)
    }
}
