//! The on-disk structures. Each is declared once, little-endian and with alignment 1. Its size and
//! offsets are asserted beside it.
//!
//! | kind | salt | block number at byte |
//! |---|---|---|
//! | [`Node`] | 121107 | 8 |
//! | [`ArrayBlock`] | 595846735 | 16 |
//! | [`Bitmap`] | 240779 | 8 |
//! | [`IndexBlock`] | 160478 | 8 |
//!
//! Superblocks are not part of the crate: each target defines its own kind.

mod array;
mod bitmap;
mod index;
mod node;
mod space_map_root;

pub use array::{ARRAY_BODY_SIZE, ArrayBlock, ArrayBlockDisk, ArrayHeader, array_capacity};
pub use bitmap::{Bitmap, BitmapDisk, ENTRIES_PER_BITMAP, RefCountBits, WORDS_PER_BITMAP};
pub use index::{INDEX_ENTRIES, IndexBlock, IndexBlockDisk, IndexEntry};
pub use node::{NODE_BODY_SIZE, Node, NodeDisk, NodeHeader, node_capacity, node_flags};
pub use space_map_root::{
    MAX_METADATA_BLOCKS, SPACE_MAP_ROOT_SIZE, SpaceMapRoot, SpaceMapRootArea,
};
