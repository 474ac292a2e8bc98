//! Writing fresh metadata with given regions hydrated, and the room that metadata takes.

use persistent_data::bitset::{BITS_PER_BLOCK, BITS_PER_WORD};
use persistent_data::device::Device;
use persistent_data::format::{ENTRIES_PER_BITMAP, node_capacity};
use persistent_data::space_map::metadata::mapped_blocks;
use thiserror::Error;
use zerocopy::little_endian as le;

use crate::geometry::{Geometry, RegionRange};
use crate::ir::Header;
use crate::metadata::{MetadataError, build};
use crate::progress::Progress;

/// Why metadata could not be restored. The device then holds what it held before, or, once it has
/// been written to, nothing that any reader takes for metadata.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError<E> {
    /// The device is too small. Nothing was written.
    #[error(
        "the device has {has} blocks of 4 KiB, metadata of this size needs at least {needed} \
         ({} sectors)", .needed * 8
    )]
    TooSmall {
        /// Blocks of the device.
        has: u64,
        /// Blocks that it would take.
        needed: u64,
    },
    /// The runs are not what they must be.
    #[error("regions {}..{}: runs must ascend, not overlap, and end by region {nr_regions}", .run.start, .run.end)]
    Run {
        /// The run that is not.
        run: RegionRange,
        /// How many regions there are.
        nr_regions: u64,
    },
    /// The runs could not be had.
    #[error("cannot read the regions to restore")]
    Source(#[source] E),
    /// Writing failed.
    #[error("cannot write the metadata")]
    Metadata(#[from] MetadataError),
}

/// Writes whole metadata in which exactly `runs` are hydrated to a device whose content is given
/// up. The same input gives the same bytes.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore<D: Device, E>(
    device: &D,
    header: Header,
    runs: impl IntoIterator<Item = Result<RegionRange, E>>,
    progress: &dyn Progress,
) -> Result<(), RestoreError<E>> {
    let size = MetadataSize::of(header.geometry);
    let (has, needed) = (mapped_blocks(device.nr_blocks()), size.least_blocks());
    if has < needed {
        return Err(RestoreError::TooSmall { has: device.nr_blocks(), needed });
    }
    progress.set_total(size.array_blocks);
    let nr_regions = header.geometry.nr_regions();
    let mut runs = Runs { runs: runs.into_iter(), rest: 0..0, nr_regions };
    build(device, header, |first, words| {
        runs.fill(first, words)?;
        progress.advance(1);
        Ok(())
    })
}

/// Runs that are being put into array blocks.
struct Runs<I> {
    runs: I,
    /// What is left of the run that was begun.
    rest: RegionRange,
    nr_regions: u64,
}

impl<E, I: Iterator<Item = Result<RegionRange, E>>> Runs<I> {
    /// Sets the bits of the runs in `words`, of which the first begins with region `first`.
    fn fill(&mut self, first: u64, words: &mut [le::U64]) -> Result<(), RestoreError<E>> {
        let end = first + words.len() as u64 * BITS_PER_WORD;
        loop {
            let now = self.rest.start..self.rest.end.min(end);
            if !now.is_empty() {
                set_bits(words, now.start - first..now.end - first);
                self.rest.start = now.end;
            }
            if self.rest.start >= end.min(self.nr_regions) {
                return Ok(());
            }
            match self.runs.next() {
                Some(run) => self.rest = self.checked(run.map_err(RestoreError::Source)?)?,
                None => {
                    self.rest = self.nr_regions..self.nr_regions;
                    return Ok(());
                }
            }
        }
    }

    fn checked(&self, run: RegionRange) -> Result<RegionRange, RestoreError<E>> {
        if self.rest.end <= run.start && run.start < run.end && run.end <= self.nr_regions {
            Ok(run)
        } else {
            Err(RestoreError::Run { run, nr_regions: self.nr_regions })
        }
    }
}

/// Sets `bits`, not empty, in `words`.
fn set_bits(words: &mut [le::U64], bits: RegionRange) {
    let (first, last) = (bits.start / BITS_PER_WORD, (bits.end - 1) / BITS_PER_WORD);
    let from_start = u64::MAX << (bits.start % BITS_PER_WORD);
    let to_end = u64::MAX >> (BITS_PER_WORD - 1 - (bits.end - 1) % BITS_PER_WORD);
    if first == last {
        words[first as usize] |= le::U64::new(from_start & to_end);
    } else {
        words[first as usize] |= le::U64::new(from_start);
        words[first as usize + 1..last as usize].fill(le::U64::MAX_VALUE);
        words[last as usize] |= le::U64::new(to_end);
    }
}

/// What the metadata of a clone takes, in blocks of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataSize {
    /// The bitset itself.
    pub array_blocks: u64,
    /// Nodes of the btree over it, when they are as empty as a kernel leaves them at worst.
    pub nodes: u64,
    /// Bitmaps of the space map.
    pub bitmaps: u64,
    /// The superblock, the space map's index, and its tree of large counts.
    pub fixed: u64,
    /// Room for a second copy of all that one commit can change.
    pub shadows: u64,
    /// What restoring takes: nodes are full then.
    packed: u64,
    /// Levels of the btree.
    depth: u64,
}

/// Superblock, index, ref count tree.
const FIXED_BLOCKS: u64 = 3;

impl MetadataSize {
    /// For a clone of these sizes.
    pub fn of(geometry: Geometry) -> Self {
        let capacity = node_capacity(size_of::<u64>()) as u64;
        let array_blocks = geometry.nr_regions().div_ceil(BITS_PER_BLOCK);
        let (packed_nodes, depth) = btree_nodes(array_blocks, capacity);
        let (nodes, _) = btree_nodes(array_blocks, capacity / 3);
        // The superblock and the ref count tree stay where they are, the index does not.
        let without_bitmaps = 2 * (array_blocks + nodes) + FIXED_BLOCKS + 1;
        let mut bitmaps = 1;
        while bitmaps * (ENTRIES_PER_BITMAP as u64) < without_bitmaps + 2 * bitmaps {
            bitmaps += 1;
        }
        Self {
            array_blocks,
            nodes,
            bitmaps,
            fixed: FIXED_BLOCKS,
            shadows: array_blocks + nodes + bitmaps + 1,
            packed: array_blocks + packed_nodes + bitmaps + FIXED_BLOCKS,
            depth,
        }
    }

    /// What a metadata device should have.
    pub fn total_blocks(&self) -> u64 {
        self.array_blocks + self.nodes + self.bitmaps + self.fixed + self.shadows
    }

    /// The least that metadata can be restored to: a kernel that has no room to commit one
    /// changed array block, with the nodes above it, the bitmaps that count old and new ones, and
    /// the index, goes read-only at the first write.
    pub fn least_blocks(&self) -> u64 {
        self.packed + 1 + self.depth + 2.min(self.bitmaps) + 1
    }
}

/// The nodes of a tree with `entries` entries and `per_node` in each, and its levels.
fn btree_nodes(entries: u64, per_node: u64) -> (u64, u64) {
    let (mut nodes, mut levels, mut width) = (0, 0, entries);
    loop {
        width = width.div_ceil(per_node);
        nodes += width;
        levels += 1;
        if width <= 1 {
            return (nodes, levels);
        }
    }
}
