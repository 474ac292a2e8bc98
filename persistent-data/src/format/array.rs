//! An array block: a leaf of an array (`dm-array.c`).

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use crate::block::BlockKind;
use crate::number::{BLOCK_SIZE, BlockNr};

/// The header of every array block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArrayHeader {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// Capacity in values: [`array_capacity`] of the value size.
    pub max_entries: le::U32,
    /// Values in use.
    pub nr_entries: le::U32,
    /// Bytes in one value.
    pub value_size: le::U32,
    /// The block's own number.
    pub blocknr: le::U64,
}

/// Bytes of an array block after its header.
pub const ARRAY_BODY_SIZE: usize = BLOCK_SIZE - size_of::<ArrayHeader>();

/// An array block: its header, then its values, packed.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ArrayBlockDisk {
    /// The header.
    pub header: ArrayHeader,
    /// The values.
    pub body: [u8; ARRAY_BODY_SIZE],
}

const _: () = {
    assert!(size_of::<ArrayHeader>() == 24);
    assert!(offset_of!(ArrayHeader, max_entries) == 4);
    assert!(offset_of!(ArrayHeader, nr_entries) == 8);
    assert!(offset_of!(ArrayHeader, value_size) == 12);
    assert!(offset_of!(ArrayHeader, blocknr) == 16);
    assert!(size_of::<ArrayBlockDisk>() == BLOCK_SIZE);
    assert!(array_capacity(8) == 509);
};

/// Returns the maximum number of values of `value_size` bytes in an array block. Zero for a size of
/// zero.
pub const fn array_capacity(value_size: usize) -> usize {
    match value_size {
        0 => 0,
        size => ARRAY_BODY_SIZE / size,
    }
}

/// The block kind of array blocks.
#[derive(Debug)]
pub enum ArrayBlock {}

impl BlockKind for ArrayBlock {
    const NAME: &'static str = "array block";
    const CSUM_SALT: u32 = 595_846_735;
    type Disk = ArrayBlockDisk;

    fn location(disk: &ArrayBlockDisk) -> BlockNr {
        BlockNr(disk.header.blocknr.get())
    }

    fn set_location(disk: &mut ArrayBlockDisk, at: BlockNr) {
        disk.header.blocknr.set(at.0);
    }
}
