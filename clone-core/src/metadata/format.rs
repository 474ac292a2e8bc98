//! The on-disk superblock of clone metadata (`dm-clone-metadata.c`).

use std::mem::offset_of;

use persistent_data::block::BlockKind;
use persistent_data::format::SpaceMapRootArea;
use persistent_data::{BLOCK_SIZE, BlockNr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

/// Value of [`SuperblockDisk::magic`].
pub const MAGIC: u64 = 0x8af2_7f64;

/// Value of [`SuperblockDisk::version`]. The kernel accepts no other.
pub const VERSION: u32 = 1;

/// Number of bytes of a superblock that have no meaning.
const RESERVED: usize = 3900;

/// Block 0 of a metadata device.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SuperblockDisk {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// The kernel writes zero.
    pub flags: le::U32,
    /// The superblock's own block number: zero.
    pub blocknr: le::U64,
    /// The kernel writes zeroes and ignores it.
    pub uuid: [u8; 16],
    /// [`MAGIC`].
    pub magic: le::U64,
    /// [`VERSION`].
    pub version: le::U32,
    /// Root of the space map of the metadata device.
    pub metadata_space_map_root: SpaceMapRootArea,
    /// Region size in sectors.
    pub region_size: le::U64,
    /// Target size in sectors.
    pub target_size: le::U64,
    /// Block number of the root of the bitset of hydrated regions.
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
    // All meaningful fields are in the first sector, so they are written atomically.
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
