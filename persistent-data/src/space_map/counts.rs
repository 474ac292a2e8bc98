//! The counts on the device: bitmaps, index and ref count tree. Both kinds of map use it.

use zerocopy::little_endian as le;

use crate::btree::Btree;
use crate::error::{Error, Result};
use crate::format::{Bitmap, ENTRIES_PER_BITMAP, IndexEntry, RefCountBits, SpaceMapRoot};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// Storage of a map's index entries.
pub(super) trait Index {
    /// Returns the entry of bitmap `bitmap`, which must exist.
    fn get<R: Reader>(&self, reader: &R, bitmap: u64) -> Result<IndexEntry>;

    /// Stores the entry of bitmap `bitmap`, which may be a new one at the end.
    fn set<W: Writer>(&mut self, writer: &mut W, bitmap: u64, entry: IndexEntry) -> Result<()>;

    /// Returns the block number of the index, for the space map root.
    fn root(&self) -> BlockNr;
}

/// The bitmaps, their index, and the tree of counts above two.
#[derive(Debug)]
pub(super) struct Counts<I> {
    pub(super) nr_blocks: u64,
    pub(super) nr_allocated: u64,
    pub(super) index: I,
    pub(super) ref_counts: Btree<le::U32>,
}

/// Makes a second view of the same blocks without taking references. Only one of the two may be
/// changed later.
impl<I: Clone> Clone for Counts<I> {
    fn clone(&self) -> Self {
        Self {
            nr_blocks: self.nr_blocks,
            nr_allocated: self.nr_allocated,
            index: self.index.clone(),
            ref_counts: Btree::open(self.ref_counts.root()),
        }
    }
}

/// Returns the number of bitmaps that cover `nr_blocks` blocks.
pub(super) fn nr_bitmaps(nr_blocks: u64) -> u64 {
    nr_blocks.div_ceil(ENTRIES_PER_BITMAP as u64)
}

/// Returns the bitmap that covers a block, and the entry in it.
fn place(at: BlockNr) -> (u64, usize) {
    let per_bitmap = ENTRIES_PER_BITMAP as u64;
    (at.0 / per_bitmap, (at.0 % per_bitmap) as usize)
}

impl<I: Index> Counts<I> {
    pub(super) fn root(&self) -> SpaceMapRoot {
        SpaceMapRoot {
            nr_blocks: self.nr_blocks.into(),
            nr_allocated: self.nr_allocated.into(),
            bitmap_root: self.index.root().0.into(),
            ref_count_root: self.ref_counts.root().0.into(),
        }
    }

    /// Returns the count of `at`; zero past the end.
    pub(super) fn count<R: Reader>(&self, reader: &R, at: BlockNr) -> Result<u32> {
        if at.0 >= self.nr_blocks {
            return Ok(0);
        }
        let (bitmap, entry) = place(at);
        let blocknr = BlockNr(self.index.get(reader, bitmap)?.blocknr.get());
        match reader.read::<Bitmap>(blocknr)?.get(entry).count() {
            Some(count) => Ok(count),
            None => self.overflow(reader, at),
        }
    }

    fn overflow<R: Reader>(&self, reader: &R, at: BlockNr) -> Result<u32> {
        match self.ref_counts.lookup(reader, at.0)? {
            Some(count) => Ok(count.get()),
            None => {
                Err(Error::SpaceMap("the ref count tree lacks a count that a bitmap leaves to it"))
            }
        }
    }

    /// Returns the first block in `from..end` that has a count of zero and satisfies `usable`.
    /// Blocks past the end of the map have a count of zero.
    pub(super) fn find_free<R: Reader>(
        &self,
        reader: &R,
        mut from: u64,
        end: u64,
        usable: impl Fn(u64) -> bool,
    ) -> Result<Option<BlockNr>> {
        let mapped_end = self.nr_blocks.min(end);
        while from < mapped_end {
            let (bitmap, entry) = place(BlockNr(from));
            let start = from - entry as u64;
            let bitmap_end = mapped_end.min(start + ENTRIES_PER_BITMAP as u64);
            let blocknr = BlockNr(self.index.get(reader, bitmap)?.blocknr.get());
            let block = reader.read::<Bitmap>(blocknr)?;
            let mut next = entry;
            while let Some(free) = block.first_free(next, (bitmap_end - start) as usize) {
                if usable(start + free as u64) {
                    return Ok(Some(BlockNr(start + free as u64)));
                }
                next = free + 1;
            }
            from = bitmap_end;
        }
        Ok((from..end).find(|&at| usable(at)).map(BlockNr))
    }

    /// Extends the map to `nr_blocks` blocks. Bitmaps of zeroes cover the new blocks.
    pub(super) fn extend<W: Writer>(&mut self, writer: &mut W, nr_blocks: u64) -> Result<()> {
        assert!(self.nr_blocks <= nr_blocks, "a space map does not shrink");
        for bitmap in nr_bitmaps(self.nr_blocks)..nr_bitmaps(nr_blocks) {
            let entry = IndexEntry {
                blocknr: writer.new_block::<Bitmap>()?.0.into(),
                nr_free: (ENTRIES_PER_BITMAP as u32).into(),
                none_free_before: 0.into(),
            };
            self.index.set(writer, bitmap, entry)?;
        }
        self.nr_blocks = nr_blocks;
        Ok(())
    }

    /// Zeroes the unused parts of the bitmaps, and removes the tree's entries for blocks past the
    /// end.
    pub(super) fn tidy<W: Writer>(&mut self, writer: &mut W) -> Result<()> {
        for bitmap in 0..nr_bitmaps(self.nr_blocks) {
            let mut index_entry = self.index.get(writer, bitmap)?;
            let first = bitmap * ENTRIES_PER_BITMAP as u64;
            let covered = (self.nr_blocks - first).min(ENTRIES_PER_BITMAP as u64) as usize;
            let at = BlockNr(index_entry.blocknr.get());
            if writer.read::<Bitmap>(at)?.is_tidy(covered) {
                continue;
            }
            let shadow = writer.shadow::<Bitmap>(at)?;
            index_entry.blocknr.set(shadow.at.0);
            let disk = writer.edit::<Bitmap>(shadow.at)?;
            let used_before = ENTRIES_PER_BITMAP as u32 - disk.nr_free();
            disk.tidy(covered);
            let used = ENTRIES_PER_BITMAP as u32 - disk.nr_free();
            self.nr_allocated -= u64::from(used_before - used);
            index_entry.nr_free.set(ENTRIES_PER_BITMAP as u32 - used);
            self.index.set(writer, bitmap, index_entry)?;
        }
        while let Some((key, _)) = self.ref_counts.lookup_next(writer, self.nr_blocks)? {
            self.ref_counts.remove(writer, key)?;
        }
        Ok(())
    }

    /// Writes the count of `at` into a shadow of its bitmap, and into the ref count tree if it is
    /// above two.
    pub(super) fn set<W: Writer>(&mut self, writer: &mut W, at: BlockNr, count: u32) -> Result<()> {
        let (bitmap, entry) = place(at);
        let mut index_entry = self.index.get(writer, bitmap)?;
        let shadow = writer.shadow::<Bitmap>(BlockNr(index_entry.blocknr.get()))?;
        index_entry.blocknr.set(shadow.at.0);

        let disk = writer.edit::<Bitmap>(shadow.at)?;
        let old = disk.get(entry);
        let new = RefCountBits::of_count(count);
        disk.set(entry, new);

        let hint = index_entry.none_free_before.get();
        let (nr_free, position) = (index_entry.nr_free.get(), entry as u32);
        if old == RefCountBits::Zero && new != RefCountBits::Zero {
            self.nr_allocated = self.nr_allocated.saturating_add(1);
            index_entry.nr_free.set(nr_free.saturating_sub(1));
            if hint == position {
                index_entry.none_free_before.set(position + 1);
            }
        } else if old != RefCountBits::Zero && new == RefCountBits::Zero {
            self.nr_allocated = self.nr_allocated.saturating_sub(1);
            index_entry.nr_free.set(nr_free.saturating_add(1).min(ENTRIES_PER_BITMAP as u32));
            index_entry.none_free_before.set(hint.min(position));
        }
        self.index.set(writer, bitmap, index_entry)?;

        if new == RefCountBits::Overflow {
            self.ref_counts.insert(writer, at.0, le::U32::new(count))?;
        } else if self.ref_counts.lookup(writer, at.0)?.is_some() {
            self.ref_counts.remove(writer, at.0)?;
        }
        Ok(())
    }
}
