//! The structures on the device: one declaration each, little-endian, of alignment 1, with size
//! and offsets asserted beside it.
//!
//! | kind | salt | block number at byte |
//! |---|---|---|
//! | [`Node`] | 121107 | 8 |
//! | [`ArrayBlock`] | 595846735 | 16 |
//! | [`Bitmap`] | 240779 | 8 |
//! | [`IndexBlock`] | 160478 | 8 |
//!
//! A superblock is its owner's: each target has a kind of its own.

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
