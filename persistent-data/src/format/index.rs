//! The index of a space map's bitmaps: one block for the map of the metadata device, and entries of
//! a btree for the maps of other devices (`dm-space-map-common.h`).

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use crate::block::BlockKind;
use crate::number::{BLOCK_SIZE, BlockNr};

/// Capacity of an index block, in bitmaps.
pub const INDEX_ENTRIES: usize = 255;

/// The index entry of one bitmap.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct IndexEntry {
    /// Block number of the bitmap.
    pub blocknr: le::U64,
    /// Number of zero entries in the bitmap, including those past the end of the device.
    pub nr_free: le::U32,
    /// A hint: no entry below this one is free.
    pub none_free_before: le::U32,
}

impl IndexEntry {
    /// True if the entry is all zeroes, as it is without a bitmap.
    pub fn is_unused(&self) -> bool {
        self.as_bytes().iter().all(|&byte| byte == 0)
    }
}

/// The index block of a metadata space map.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IndexBlockDisk {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// Zero.
    pub padding: le::U32,
    /// The index's own block number.
    pub blocknr: le::U64,
    /// One entry per bitmap; the others are zero.
    pub entries: [IndexEntry; INDEX_ENTRIES],
}

const _: () = {
    assert!(size_of::<IndexEntry>() == 16);
    assert!(offset_of!(IndexEntry, nr_free) == 8);
    assert!(offset_of!(IndexEntry, none_free_before) == 12);
    assert!(size_of::<IndexBlockDisk>() == BLOCK_SIZE);
    assert!(offset_of!(IndexBlockDisk, padding) == 4);
    assert!(offset_of!(IndexBlockDisk, blocknr) == 8);
    assert!(offset_of!(IndexBlockDisk, entries) == 16);
};

/// The block kind of index blocks.
#[derive(Debug)]
pub enum IndexBlock {}

impl BlockKind for IndexBlock {
    const NAME: &'static str = "space map index";
    const CSUM_SALT: u32 = 160_478;
    type Disk = IndexBlockDisk;

    fn location(disk: &IndexBlockDisk) -> BlockNr {
        BlockNr(disk.blocknr.get())
    }

    fn set_location(disk: &mut IndexBlockDisk, at: BlockNr) {
        disk.blocknr.set(at.0);
    }
}
