//! The room that metadata takes on its device.

use persistent_data::bitset::nr_array_blocks;
use persistent_data::device::ReadDevice;
use persistent_data::format::{ENTRIES_PER_BITMAP, node_capacity};
use persistent_data::space_map::metadata::mapped_blocks;

use crate::geometry::Geometry;

/// Size of the metadata of a clone, in blocks of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataSize {
    /// Array blocks of the bitset.
    pub array_blocks: u64,
    /// Nodes of the bitset's btree, at the lowest fill level that a kernel leaves.
    pub nodes: u64,
    /// Bitmaps of the space map.
    pub bitmaps: u64,
    /// The superblock, the space map's index, and its tree of large counts.
    pub fixed: u64,
    /// Blocks for a second copy of everything that one commit can change.
    pub shadows: u64,
    /// Blocks after a restore, when the nodes are full.
    packed: u64,
    geometry: Geometry,
}

/// The superblock, the index and the ref count tree.
const FIXED_BLOCKS: u64 = 3;

impl MetadataSize {
    /// Computes the size for a clone of these sizes.
    pub fn of(geometry: Geometry) -> Self {
        let capacity = node_capacity(size_of::<u64>()) as u64;
        let array_blocks = nr_array_blocks(geometry.nr_regions());
        let (packed_nodes, _) = btree_nodes(array_blocks, capacity);
        let (nodes, _) = btree_nodes(array_blocks, capacity / 3);
        // The superblock and the ref count tree are not copied by a commit, but the index is.
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

    /// Returns the recommended size of a metadata device.
    pub fn total_blocks(&self) -> u64 {
        self.array_blocks + self.nodes + self.bitmaps + self.fixed + self.shadows
    }

    /// Returns the minimum size to which metadata can be restored. It leaves room for a commit of
    /// one changed array block with the nodes above it, the bitmaps that count old and new blocks,
    /// and the index. Without this room a kernel becomes read-only at its first write.
    pub fn least_blocks(&self) -> u64 {
        self.packed + least_commit(self.geometry, self.bitmaps)
    }
}

/// Returns the number of blocks that a commit of one changed array block needs: its copy, one node
/// per level, the bitmaps that count old and new blocks, and the index.
pub(crate) fn least_commit(geometry: Geometry, nr_bitmaps: u64) -> u64 {
    let array_blocks = nr_array_blocks(geometry.nr_regions());
    let (_, depth) = btree_nodes(array_blocks, node_capacity(size_of::<u64>()) as u64);
    1 + depth + 2.min(nr_bitmaps) + 1
}

/// Returns the number of nodes and of levels of a tree with `entries` entries, `per_node` in each.
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

/// Returns the number of usable blocks of `device`, and the minimum that the metadata needs.
pub(crate) fn room<D: ReadDevice>(device: &D, geometry: Geometry) -> (u64, u64) {
    (mapped_blocks(device.nr_blocks()), MetadataSize::of(geometry).least_blocks())
}
