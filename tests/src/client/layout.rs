//! Block layouts of the client's own structures.

use std::mem::offset_of;

use persistent_data::block::BlockKind;
use persistent_data::btree::Value;
use persistent_data::format::{SpaceMapRoot, SpaceMapRootArea};
use persistent_data::store::Writer;
use persistent_data::{BLOCK_SIZE, BlockNr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

/// Bytes of a catalog that are in use.
const CATALOG_USED: usize = 236;

/// The client's superblock.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CatalogDisk {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// Zero.
    pub blocknr: le::U64,
    /// Root of the space map of the metadata device.
    pub space_map_root: SpaceMapRootArea,
    /// Root of the space map of the data.
    pub data_root: SpaceMapRoot,
    /// Root of the tree.
    pub tree: le::U64,
    /// Root of the tree's snapshot; zero if there is none.
    pub snapshot: le::U64,
    /// Root of the array.
    pub array: le::U64,
    /// Length of the array.
    pub array_len: le::U64,
    /// Root of the array of pointers.
    pub pointers: le::U64,
    /// Length of the array of pointers.
    pub pointers_len: le::U64,
    /// Root of the bitset.
    pub bitset: le::U64,
    /// Length of the bitset.
    pub bitset_len: le::U64,
    /// Zero.
    pub reserved: [u8; BLOCK_SIZE - CATALOG_USED],
}

const _: () = {
    assert!(size_of::<CatalogDisk>() == BLOCK_SIZE);
    assert!(offset_of!(CatalogDisk, reserved) == CATALOG_USED);
    // As in any superblock, the used part fits in one sector, which is written whole or not at all.
    assert!(CATALOG_USED <= 512);
};

/// The block kind of catalogs.
#[derive(Debug)]
pub enum Catalog {}

impl BlockKind for Catalog {
    const NAME: &'static str = "catalog";
    const CSUM_SALT: u32 = 0x00c4_7a10;
    type Disk = CatalogDisk;

    fn location(disk: &CatalogDisk) -> BlockNr {
        BlockNr(disk.blocknr.get())
    }

    fn set_location(disk: &mut CatalogDisk, at: BlockNr) {
        disk.blocknr.set(at.0);
    }
}

/// A block that a pointer refers to.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PayloadDisk {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// Block number of this block.
    pub blocknr: le::U64,
    /// Content that identifies the payload.
    pub content: le::U64,
    /// Zero.
    pub reserved: [u8; BLOCK_SIZE - 20],
}

/// The block kind of payloads.
#[derive(Debug)]
pub enum Payload {}

impl BlockKind for Payload {
    const NAME: &'static str = "payload";
    const CSUM_SALT: u32 = 0x00a1_10ad;
    type Disk = PayloadDisk;

    fn location(disk: &PayloadDisk) -> BlockNr {
        BlockNr(disk.blocknr.get())
    }

    fn set_location(disk: &mut PayloadDisk, at: BlockNr) {
        disk.blocknr.set(at.0);
    }
}

/// A value with a reference to a payload. It is large, so that a few of them fill an array block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Pointer {
    at: le::U64,
    reserved: [u8; 120],
}

impl Pointer {
    /// Creates a pointer to the payload at `at`. It takes over the caller's reference.
    pub fn new(at: BlockNr) -> Self {
        Self { at: at.0.into(), reserved: [0; 120] }
    }

    /// Returns the block of the payload.
    pub fn at(&self) -> BlockNr {
        BlockNr(self.at.get())
    }
}

impl Value for Pointer {
    fn inc<W: Writer>(&self, writer: &mut W) -> Result<()> {
        writer.inc(self.at())
    }

    fn dec<W: Writer>(&self, writer: &mut W) -> Result<()> {
        writer.dec(self.at())
    }
}
