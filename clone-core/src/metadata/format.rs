//! The superblock of clone metadata as it lies on the device (`dm-clone-metadata.c`).

use std::mem::offset_of;

use persistent_data::block::BlockKind;
use persistent_data::format::SpaceMapRootArea;
use persistent_data::{BLOCK_SIZE, BlockNr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

/// What [`SuperblockDisk::magic`] holds.
pub const MAGIC: u64 = 0x8af2_7f64;

/// What [`SuperblockDisk::version`] holds. The kernel accepts no other.
pub const VERSION: u32 = 1;

/// Bytes of a superblock that have no meaning.
const RESERVED: usize = 3900;

/// Block 0 of a metadata device.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SuperblockDisk {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// The kernel writes zero.
    pub flags: le::U32,
    /// Zero: where the superblock lies.
    pub blocknr: le::U64,
    /// The kernel writes zeroes and does not look at it.
    pub uuid: [u8; 16],
    /// [`MAGIC`].
    pub magic: le::U64,
    /// [`VERSION`].
    pub version: le::U32,
    /// Where the space map of the metadata device begins.
    pub metadata_space_map_root: SpaceMapRootArea,
    /// In sectors.
    pub region_size: le::U64,
    /// In sectors.
    pub target_size: le::U64,
    /// Where the bitset of hydrated regions begins.
    pub bitset_root: le::U64,
    /// Zero.
    pub reserved: [u8; RESERVED],
}

const _: () = {
    assert!(size_of::<SuperblockDisk>() == BLOCK_SIZE);
    assert!(offset_of!(SuperblockDisk, flags) == 4);
    assert!(offset_of!(SuperblockDisk, blocknr) == 8);
    assert!(offset_of!(SuperblockDisk, uuid) == 16);
    assert!(offset_of!(SuperblockDisk, magic) == 32);
    assert!(offset_of!(SuperblockDisk, version) == 40);
    assert!(offset_of!(SuperblockDisk, metadata_space_map_root) == 44);
    assert!(offset_of!(SuperblockDisk, region_size) == 172);
    assert!(offset_of!(SuperblockDisk, target_size) == 180);
    assert!(offset_of!(SuperblockDisk, bitset_root) == 188);
    assert!(offset_of!(SuperblockDisk, reserved) == 196);
    // Everything that means something lies in one sector, so it is written whole or not at all.
    assert!(offset_of!(SuperblockDisk, reserved) <= 512);
};

/// The block kind of clone superblocks.
#[derive(Debug)]
pub enum Superblock {}

impl BlockKind for Superblock {
    const NAME: &'static str = "clone superblock";
    const CSUM_SALT: u32 = 257_649_492;
    type Disk = SuperblockDisk;

    fn location(disk: &SuperblockDisk) -> BlockNr {
        BlockNr(disk.blocknr.get())
    }

    fn set_location(disk: &mut SuperblockDisk, at: BlockNr) {
        disk.blocknr.set(at.0);
    }
}
