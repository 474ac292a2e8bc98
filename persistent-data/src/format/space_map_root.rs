//! The root of a space map, as a superblock stores it (`struct disk_sm_root`).

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use super::bitmap::ENTRIES_PER_BITMAP;
use super::index::INDEX_ENTRIES;

/// Bytes of a superblock that are reserved for a space map root. The root is shorter; the rest is
/// zero.
pub const SPACE_MAP_ROOT_SIZE: usize = 128;

/// The area of a superblock that is reserved for a space map root.
pub type SpaceMapRootArea = [u8; SPACE_MAP_ROOT_SIZE];

/// Maximum number of blocks that a metadata space map covers: 15.9 GiB.
///
/// `DM_SM_METADATA_MAX_BLOCKS` in `dm-space-map-metadata.h`.
pub const MAX_METADATA_BLOCKS: u64 = (INDEX_ENTRIES * ENTRIES_PER_BITMAP) as u64;

/// The root of a space map: its size and its two structures.
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
pub struct SpaceMapRoot {
    /// Blocks that the map covers.
    pub nr_blocks: le::U64,
    /// Number of blocks with a count above zero.
    pub nr_allocated: le::U64,
    /// Index block of a metadata space map; root of the index tree of any other.
    pub bitmap_root: le::U64,
    /// Root of the tree of counts above two.
    pub ref_count_root: le::U64,
}

const _: () = {
    assert!(size_of::<SpaceMapRoot>() == 32);
    assert!(offset_of!(SpaceMapRoot, nr_allocated) == 8);
    assert!(offset_of!(SpaceMapRoot, bitmap_root) == 16);
    assert!(offset_of!(SpaceMapRoot, ref_count_root) == 24);
    assert!(MAX_METADATA_BLOCKS == 4_161_600);
};

impl SpaceMapRoot {
    /// Reads the root from the start of a superblock's area.
    pub fn from_area(area: &SpaceMapRootArea) -> Self {
        Self::read_from_prefix(area).expect("the area is larger than a root").0
    }

    /// Returns an area with this root at its start, followed by zeroes.
    pub fn to_area(self) -> SpaceMapRootArea {
        let mut area = [0; SPACE_MAP_ROOT_SIZE];
        area[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        area
    }
}
