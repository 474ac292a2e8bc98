//! Reads a metadata space map that may be damaged, and compares it with the references that a walk
//! has found.

use std::ops::Range;

use zerocopy::little_endian as le;

use super::CoreSpaceMap;
use super::counts::nr_bitmaps;
use super::damage::{SpaceMapDamage, merge};
use super::metadata::mapped_blocks;
use crate::block::Block;
use crate::btree::{self, NodeView, WalkVisitor};
use crate::format::{
    Bitmap, BitmapDisk, ENTRIES_PER_BITMAP, INDEX_ENTRIES, IndexBlock, IndexEntry, RefCountBits,
    SpaceMapRoot,
};
use crate::number::BlockNr;
use crate::store::Reader;

/// The readable part of a metadata space map.
pub struct SpaceMapReading {
    nr_blocks: u64,
    bitmaps: Vec<Option<Block<Bitmap>>>,
    /// Counts above two, in ascending order of blocks.
    large_counts: Vec<(u64, u32)>,
    /// Number of nodes of the ref count tree.
    tree_nodes: u64,
    /// True if the whole ref count tree could be read.
    tree_whole: bool,
}

impl std::fmt::Debug for SpaceMapReading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpaceMapReading")
            .field("nr_blocks", &self.nr_blocks)
            .field("bitmaps", &self.bitmaps.len())
            .finish_non_exhaustive()
    }
}

impl SpaceMapReading {
    /// Reads the map that begins at `root`, on a device of `device_blocks`. Calls `refer` for every
    /// block of the map, once per reference, and `damaged` for every defect inside the map. `refer`
    /// returns whether this is the first reference to the block.
    ///
    /// Returns `None` if the size of the map is not valid.
    pub fn read<R: Reader>(
        reader: &R,
        root: SpaceMapRoot,
        device_blocks: u64,
        mut refer: impl FnMut(BlockNr) -> bool,
        mut damaged: impl FnMut(SpaceMapDamage),
    ) -> Option<Self> {
        let (nr_blocks, present) = (root.nr_blocks.get(), mapped_blocks(device_blocks));
        if nr_blocks == 0 || nr_blocks > present {
            damaged(SpaceMapDamage::Size { nr_blocks, present });
            return None;
        }
        let mut reading = Self {
            nr_blocks,
            bitmaps: vec![None; nr_bitmaps(nr_blocks) as usize],
            large_counts: Vec::new(),
            tree_nodes: 0,
            tree_whole: true,
        };
        let mut visitor =
            LargeCounts { reading: &mut reading, refer: &mut refer, damaged: &mut damaged };
        btree::walk(reader, BlockNr(root.ref_count_root.get()), &mut visitor);

        let at = BlockNr(root.bitmap_root.get());
        refer(at);
        match reader.read::<IndexBlock>(at) {
            Ok(index) => {
                if index.padding.get() != 0 {
                    damaged(SpaceMapDamage::NotZero { at, what: "the padding of the index" });
                }
                reading.read_bitmaps(reader, at, &index.entries, &mut refer, &mut damaged);
                let unused = &index.entries[reading.bitmaps.len()..];
                if !unused.iter().all(IndexEntry::is_unused) {
                    damaged(SpaceMapDamage::NotZero { at, what: "an unused index entry" });
                }
                reading.check_sum(root.nr_allocated.get(), &mut damaged);
            }
            Err(error) => damaged(SpaceMapDamage::Index { at, error }),
        }
        Some(reading)
    }

    fn read_bitmaps<R: Reader>(
        &mut self,
        reader: &R,
        index: BlockNr,
        entries: &[IndexEntry; INDEX_ENTRIES],
        refer: &mut impl FnMut(BlockNr) -> bool,
        damaged: &mut impl FnMut(SpaceMapDamage),
    ) {
        for (bitmap, entry) in entries.iter().enumerate().take(self.bitmaps.len()) {
            let at = BlockNr(entry.blocknr.get());
            refer(at);
            match reader.read::<Bitmap>(at) {
                Ok(disk) => {
                    let covered = self.covered_by(bitmap);
                    check_entry(index, bitmap as u64, entry, &disk, covered, damaged);
                    check_unused(at, &disk, covered, damaged);
                    self.bitmaps[bitmap] = Some(disk);
                }
                Err(error) => {
                    damaged(SpaceMapDamage::Bitmap { bitmap: bitmap as u64, at, error });
                }
            }
        }
    }

    /// Returns the number of blocks that the map covers.
    pub fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Returns the number of bitmaps of the map.
    pub fn nr_bitmaps(&self) -> u64 {
        self.bitmaps.len() as u64
    }

    /// Returns how many nodes of the ref count tree a commit may copy: none if it has no counts.
    pub fn nr_tree_nodes(&self) -> u64 {
        if self.large_counts.is_empty() { 0 } else { self.tree_nodes }
    }

    /// Returns how many entries of a bitmap correspond to blocks of the device.
    fn covered_by(&self, bitmap: usize) -> usize {
        let first = (bitmap * ENTRIES_PER_BITMAP) as u64;
        (self.nr_blocks - first).min(ENTRIES_PER_BITMAP as u64) as usize
    }

    /// Returns the number of readable blocks with a count of zero, at most `most`.
    pub fn nr_free(&self, most: u64) -> u64 {
        let mut nr_free = 0;
        for (bitmap, disk) in self.bitmaps.iter().enumerate() {
            let Some(disk) = disk else { continue };
            let mut next = 0;
            while nr_free < most
                && let Some(free) = disk.first_free(next, self.covered_by(bitmap))
            {
                nr_free += 1;
                next = free + 1;
            }
        }
        nr_free
    }

    /// True if every count could be read.
    pub fn is_whole(&self) -> bool {
        self.tree_whole && self.bitmaps.iter().all(Option::is_some)
    }

    /// Returns the number of readable blocks with a count above zero.
    pub fn nr_allocated(&self) -> u64 {
        let used = |bitmap: &Block<Bitmap>| ENTRIES_PER_BITMAP as u64 - u64::from(bitmap.nr_free());
        self.bitmaps.iter().flatten().map(used).sum()
    }

    /// Returns the readable blocks with a count above zero, in ascending order.
    pub fn counted(&self) -> impl Iterator<Item = BlockNr> + '_ {
        let entries = (0..self.nr_blocks).map(|block| {
            let (bitmap, entry) =
                (block as usize / ENTRIES_PER_BITMAP, block as usize % ENTRIES_PER_BITMAP);
            (block, self.bitmaps[bitmap].as_ref().map(|disk| disk.get(entry)))
        });
        let in_use =
            |bits: Option<RefCountBits>| bits.is_some_and(|bits| bits != RefCountBits::Zero);
        entries.filter(move |&(_, bits)| in_use(bits)).map(|(block, _)| BlockNr(block))
    }

    fn check_sum(&self, found: u64, damaged: &mut impl FnMut(SpaceMapDamage)) {
        let expected = self.nr_allocated();
        if self.bitmaps.iter().all(Option::is_some) && found != expected {
            damaged(SpaceMapDamage::NrAllocated { found, expected });
        }
    }

    /// Compares the counts with `references`, which must cover the device.
    ///
    /// Leaks are reported only if `all_found`, that is if no part of any walk failed: blocks that
    /// an unreadable block refers to look leaked, but are in use.
    pub fn compare(
        &self,
        references: &CoreSpaceMap,
        all_found: bool,
        mut damaged: impl FnMut(SpaceMapDamage),
    ) {
        let all_found = all_found && self.is_whole();
        let mut open: Option<SpaceMapDamage> = None;
        let mut large = self.large_counts.iter().copied().peekable();
        for (bitmap, disk) in self.bitmaps.iter().enumerate() {
            let Some(disk) = disk else { continue };
            let first = (bitmap * ENTRIES_PER_BITMAP) as u64;
            let end = self.nr_blocks.min(first + ENTRIES_PER_BITMAP as u64);
            while large.next_if(|&(block, _)| block < first).is_some() {}
            for block in first..end {
                let in_tree = large.next_if(|&(key, _)| key == block).map(|(_, count)| count);
                let bits = disk.get((block - first) as usize);
                let found = references.count(BlockNr(block)).unwrap_or(0);
                if let Some(damage) = self.judge(block, bits, in_tree, found, all_found) {
                    match merge(open.take(), damage) {
                        (merged, None) => open = Some(merged),
                        (done, next) => {
                            damaged(done);
                            open = next;
                        }
                    }
                }
                let belongs_in_tree =
                    |count| bits == RefCountBits::Overflow && RefCountBits::of_count(count) == bits;
                if in_tree.is_some_and(|count| !belongs_in_tree(count)) {
                    damaged(SpaceMapDamage::CountNeedless { block });
                }
            }
        }
        open.into_iter().for_each(damaged);
    }

    /// Returns the damage of one block's count, if any.
    fn judge(
        &self,
        block: u64,
        bits: RefCountBits,
        in_tree: Option<u32>,
        found: u32,
        all_found: bool,
    ) -> Option<SpaceMapDamage> {
        let blocks = block..block + 1;
        let counted = match bits.count().or(in_tree) {
            Some(counted) => counted,
            None if self.tree_whole => return Some(SpaceMapDamage::CountMissing { blocks }),
            None => return None,
        };
        if counted < found {
            Some(SpaceMapDamage::CountLow { blocks, counted, found })
        } else if counted > found && all_found {
            Some(SpaceMapDamage::Leak { blocks, counted, found })
        } else {
            None
        }
    }
}

/// Checks the index entry of a bitmap, whose first `covered` entries correspond to blocks, against
/// the bitmap. `index` is the block number of the index.
fn check_entry(
    index: BlockNr,
    bitmap: u64,
    entry: &IndexEntry,
    disk: &BitmapDisk,
    covered: usize,
    damaged: &mut impl FnMut(SpaceMapDamage),
) {
    let (found, expected) = (entry.nr_free.get(), disk.nr_free());
    if found < expected {
        damaged(SpaceMapDamage::NrFreeLow { at: index, bitmap, found, expected });
    } else if found > expected {
        damaged(SpaceMapDamage::NrFreeHigh { at: index, bitmap, found, expected });
    }
    let hint = entry.none_free_before.get();
    if let Some(free) = disk.first_free(0, covered)
        && (free as u64) < u64::from(hint)
    {
        damaged(SpaceMapDamage::Hint { at: index, bitmap, hint, free: free as u32 });
    }
}

/// Checks that the unused parts of a bitmap, whose first `covered` entries correspond to blocks,
/// are zero.
fn check_unused(
    at: BlockNr,
    disk: &BitmapDisk,
    covered: usize,
    damaged: &mut impl FnMut(SpaceMapDamage),
) {
    if disk.not_used.get() != 0 {
        damaged(SpaceMapDamage::NotZero { at, what: "the unused field of a bitmap" });
    }
    let mut past_end = covered..ENTRIES_PER_BITMAP;
    if past_end.any(|entry| disk.get(entry) != RefCountBits::Zero) {
        damaged(SpaceMapDamage::PastEnd { at });
    }
}

/// Collects the counts of the ref count tree.
struct LargeCounts<'a, F, G> {
    reading: &'a mut SpaceMapReading,
    refer: &'a mut F,
    damaged: &'a mut G,
}

impl<F, G> WalkVisitor<le::U32> for LargeCounts<'_, F, G>
where
    F: FnMut(BlockNr) -> bool,
    G: FnMut(SpaceMapDamage),
{
    fn node(&mut self, at: BlockNr, _: &Range<u64>) -> bool {
        let first = (self.refer)(at);
        // Counts below a node that is not entered again cannot be distinguished from missing ones.
        self.reading.tree_whole &= first;
        self.reading.tree_nodes += 1;
        first
    }

    fn padding(&mut self, at: BlockNr) {
        (self.damaged)(SpaceMapDamage::NodePadding { at });
    }

    fn leaf(&mut self, _: BlockNr, _: &Range<u64>, leaf: &NodeView<'_, le::U32>) {
        let nr_blocks = self.reading.nr_blocks;
        for (block, count) in leaf.entries() {
            if block >= nr_blocks {
                (self.damaged)(SpaceMapDamage::CountNeedless { block });
            } else {
                self.reading.large_counts.push((block, count.get()));
            }
        }
    }

    fn damage(&mut self, damage: btree::NodeDamage) {
        self.reading.tree_whole = false;
        let btree::NodeDamage { at, keys, error } = damage;
        (self.damaged)(SpaceMapDamage::RefCountTree { at, keys, error });
    }
}
