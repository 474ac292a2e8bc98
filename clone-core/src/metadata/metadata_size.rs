//! The room that metadata takes on its device.

use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::device::ReadDevice;
use persistent_data::format::{ENTRIES_PER_BITMAP, node_capacity};
use persistent_data::space_map::metadata::mapped_blocks;

use crate::geometry::Geometry;

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
    geometry: Geometry,
}

/// Superblock, index, ref count tree.
const FIXED_BLOCKS: u64 = 3;

impl MetadataSize {
    /// For a clone of these sizes.
    pub fn of(geometry: Geometry) -> Self {
        let capacity = node_capacity(size_of::<u64>()) as u64;
        let array_blocks = geometry.nr_regions().div_ceil(BITS_PER_BLOCK);
        let (packed_nodes, _) = btree_nodes(array_blocks, capacity);
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
            geometry,
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
        self.packed + least_commit(self.geometry, self.bitmaps)
    }
}

/// Blocks that a commit of one changed array block takes: its copy, one node on each level, the
/// bitmaps that count old and new blocks, and the index.
pub(crate) fn least_commit(geometry: Geometry, nr_bitmaps: u64) -> u64 {
    let array_blocks = geometry.nr_regions().div_ceil(BITS_PER_BLOCK);
    let (_, depth) = btree_nodes(array_blocks, node_capacity(size_of::<u64>()) as u64);
    1 + depth + 2.min(nr_bitmaps) + 1
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

/// Blocks of `device` that metadata can use, and the least that it takes.
pub(crate) fn room<D: ReadDevice>(device: &D, geometry: Geometry) -> (u64, u64) {
    (mapped_blocks(device.nr_blocks()), MetadataSize::of(geometry).least_blocks())
}
