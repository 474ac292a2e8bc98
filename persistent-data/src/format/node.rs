//! A btree node (`dm-btree-internal.h`).

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use crate::block::BlockKind;
use crate::number::{BLOCK_SIZE, BlockNr};

/// Values of [`NodeHeader::flags`]. Exactly one of them is set.
pub mod node_flags {
    /// The values are block numbers of children.
    pub const INTERNAL: u32 = 1;
    /// The values belong to the tree's user.
    pub const LEAF: u32 = 2;
}

/// The header of every node.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodeHeader {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// One of [`node_flags`].
    pub flags: le::U32,
    /// The node's own block number.
    pub blocknr: le::U64,
    /// Entries in use.
    pub nr_entries: le::U32,
    /// Capacity in entries: [`node_capacity`] of the value size. The values begin after this many
    /// keys.
    pub max_entries: le::U32,
    /// Bytes in one value: 8 in an internal node.
    pub value_size: le::U32,
    /// Zero.
    pub padding: le::U32,
}

/// Bytes of a node after its header.
pub const NODE_BODY_SIZE: usize = BLOCK_SIZE - size_of::<NodeHeader>();

/// A node: its header, then `max_entries` keys of 8 bytes, then `max_entries` values.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NodeDisk {
    /// The header.
    pub header: NodeHeader,
    /// Keys, then values.
    pub body: [u8; NODE_BODY_SIZE],
}

const _: () = {
    assert!(size_of::<NodeHeader>() == 32);
    assert!(offset_of!(NodeHeader, flags) == 4);
    assert!(offset_of!(NodeHeader, blocknr) == 8);
    assert!(offset_of!(NodeHeader, nr_entries) == 16);
    assert!(offset_of!(NodeHeader, max_entries) == 20);
    assert!(offset_of!(NodeHeader, value_size) == 24);
    assert!(offset_of!(NodeHeader, padding) == 28);
    assert!(size_of::<NodeDisk>() == BLOCK_SIZE);
    assert!(node_capacity(4) == 336);
    assert!(node_capacity(8) == 252);
    assert!(node_capacity(16) == 168);
};

/// Returns the maximum number of entries of a node with values of `value_size` bytes.
///
/// It is a multiple of three, so that three siblings can share the entries of two nodes
/// (`calc_max_entries` in `dm-btree.c`). Zero if fewer than three values fit.
pub const fn node_capacity(value_size: usize) -> usize {
    let fitting = NODE_BODY_SIZE / (size_of::<u64>().saturating_add(value_size));
    3 * (fitting / 3)
}

/// The block kind of btree nodes.
#[derive(Debug)]
pub enum Node {}

impl BlockKind for Node {
    const NAME: &'static str = "btree node";
    const CSUM_SALT: u32 = 121_107;
    type Disk = NodeDisk;

    fn location(disk: &NodeDisk) -> BlockNr {
        BlockNr(disk.header.blocknr.get())
    }

    fn set_location(disk: &mut NodeDisk, at: BlockNr) {
        disk.header.blocknr.set(at.0);
    }
}
