//! The superblock: where everything begins.

use std::io;

use persistent_data::block::{self, BlockError, RawBlock};
use persistent_data::device::ReadDevice;
use persistent_data::format::SpaceMapRootArea;
use persistent_data::transaction::{SUPERBLOCK, is_unfinished};
use persistent_data::{BLOCK_SIZE, BlockNr};
use thiserror::Error;
use zerocopy::FromZeros;

use crate::geometry::{Geometry, GeometryError, RegionSize, SECTOR_SIZE, Sectors};
use crate::metadata::format::{MAGIC, SuperblockDisk, VERSION};
use crate::metadata::ir::Header;

/// Why a device does not hold clone metadata that can be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// Not even one block.
    #[error("the device is smaller than the one block that a superblock takes")]
    NoRoom,
    /// The device could not be read.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// Nothing but zeroes. The kernel takes that for a new device, and formats it.
    #[error(
        "it is all zeroes, so this is not formatted metadata. If a clone has been using this \
         device, do NOT give it to the kernel: the kernel would format it without a word, and \
         every write made to the clone so far would revert to what the source holds"
    )]
    Unformatted,
    /// Whatever was making metadata here did not come to its end.
    #[error(
        "an unfinished restore or repair: it was interrupted before its end, and holds no \
         metadata; run it again"
    )]
    Unfinished,
    /// Not a clone superblock at all.
    #[error("no dm-clone metadata here: the magic number is {found:#x}, it must be {MAGIC:#x}")]
    Magic {
        /// What is there instead.
        found: u64,
    },
    /// The checksum or the block number is wrong.
    #[error("{0}")]
    Block(#[from] BlockError),
    /// A version that neither the kernel nor this library knows.
    #[error("version {found}: only version {VERSION} is known")]
    Version {
        /// What the superblock says.
        found: u32,
    },
    /// Sizes that no clone can have.
    #[error("{0}")]
    Geometry(#[from] GeometryError),
}

/// A superblock whose every field makes sense by itself. What it points to is unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The uuid and the sizes of the clone.
    pub header: Header,
    /// Where the space map of the metadata device begins.
    pub space_map_root: SpaceMapRootArea,
    /// Where the bitset of hydrated regions begins.
    pub bitset_root: BlockNr,
}

impl Superblock {
    /// Reads the superblock of `device`.
    ///
    /// # Errors
    /// Whatever makes it unusable.
    pub fn read<D: ReadDevice + ?Sized>(device: &D) -> Result<Self, SuperblockError> {
        Self::parse(&read_raw(device)?)
    }

    /// What the bytes of block 0 say.
    ///
    /// # Errors
    /// Whatever makes them unusable, but [`SuperblockError::Read`].
    pub fn parse(raw: &RawBlock) -> Result<Self, SuperblockError> {
        if raw.is_zero() {
            return Err(SuperblockError::Unformatted);
        }
        if is_unfinished(raw) {
            return Err(SuperblockError::Unfinished);
        }
        let magic = block::view::<crate::metadata::format::Superblock>(raw).magic.get();
        let checked = block::check::<crate::metadata::format::Superblock>(raw, SUPERBLOCK);
        if magic != MAGIC {
            return Err(SuperblockError::Magic { found: magic });
        }
        let disk = checked?;
        if disk.version.get() != VERSION {
            return Err(SuperblockError::Version { found: disk.version.get() });
        }
        let region_size = RegionSize::new(Sectors(disk.region_size.get()))?;
        let geometry = Geometry::new(region_size, Sectors(disk.target_size.get()))?;
        Ok(Self {
            header: Header { uuid: disk.uuid, geometry },
            space_map_root: disk.metadata_space_map_root,
            bitset_root: BlockNr(disk.bitset_root.get()),
        })
    }

    /// The superblock as it is to be written, but for checksum and block number.
    pub fn to_disk(&self) -> SuperblockDisk {
        let mut disk = SuperblockDisk::new_zeroed();
        disk.uuid = self.header.uuid;
        disk.magic.set(MAGIC);
        disk.version.set(VERSION);
        disk.metadata_space_map_root = self.space_map_root;
        disk.region_size.set(self.header.geometry.region_size().sectors().0);
        disk.target_size.set(self.header.geometry.target_size().0);
        disk.bitset_root.set(self.bitset_root.0);
        disk
    }

    /// The superblock as it is to be written in the place of `old`, but for checksum and block
    /// number.
    ///
    /// What lies outside of the first sector stays what it was. A crash may leave any sector of a
    /// write unwritten: only because no more than one of them changes, the old superblock is
    /// replaced whole or not at all.
    pub fn to_disk_over(&self, old: &SuperblockDisk) -> SuperblockDisk {
        let mut disk = self.to_disk();
        let kept = size_of_val(&old.reserved) - OUTSIDE_FIRST_SECTOR..;
        disk.reserved[kept.clone()].copy_from_slice(&old.reserved[kept]);
        disk
    }
}

/// Bytes of a superblock that do not lie in its first sector.
pub(crate) const OUTSIDE_FIRST_SECTOR: usize = BLOCK_SIZE - SECTOR_SIZE as usize;

/// The bytes of block 0.
pub(crate) fn read_raw<D: ReadDevice + ?Sized>(device: &D) -> Result<RawBlock, SuperblockError> {
    if device.nr_blocks() == 0 {
        return Err(SuperblockError::NoRoom);
    }
    let mut raw = RawBlock::ZERO;
    device.read(SUPERBLOCK, std::slice::from_mut(&mut raw)).map_err(SuperblockError::Read)?;
    Ok(raw)
}
