//! The superblock, which leads to all other metadata: checked reads, and its form for writing.

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

/// Reason why a device does not hold usable clone metadata.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// The device has no whole block.
    #[error("the device is smaller than the one block that a superblock takes")]
    NoRoom,
    /// A read from the device failed.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// The superblock is all zeroes. The kernel takes such a device for a new one and formats it.
    #[error(
        "it is all zeroes, so this is not formatted metadata. If a clone has been using this \
         device, do NOT give it to the kernel: the kernel would format it without a word, and \
         every write made to the clone so far would revert to what the source holds"
    )]
    Unformatted,
    /// A restore or repair was interrupted before its end.
    #[error(
        "an unfinished restore or repair: it was interrupted before its end, and holds no \
         metadata; run it again"
    )]
    Unfinished,
    /// The magic number is not that of a clone superblock.
    #[error("no dm-clone metadata here: the magic number is {found:#x}, it must be {MAGIC:#x}")]
    Magic {
        /// The magic number that was found.
        found: u64,
    },
    /// The checksum or the block number is wrong.
    #[error("{0}")]
    Block(#[from] BlockError),
    /// Neither the kernel nor this library knows the version.
    #[error("version {found}: only version {VERSION} is known")]
    Version {
        /// The version in the superblock.
        found: u32,
    },
    /// The sizes are not valid for a clone.
    #[error("{0}")]
    Geometry(#[from] GeometryError),
}

/// A superblock whose fields are all valid. The blocks that it points to are not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The uuid and the sizes of the clone.
    pub header: Header,
    /// Root of the space map of the metadata device.
    pub space_map_root: SpaceMapRootArea,
    /// Block number of the root of the bitset of hydrated regions.
    pub bitset_root: BlockNr,
}

impl Superblock {
    /// Reads and checks the superblock of `device`.
    ///
    /// # Errors
    /// Any [`SuperblockError`].
    pub fn read<D: ReadDevice + ?Sized>(device: &D) -> Result<Self, SuperblockError> {
        Self::parse(&read_raw(device)?)
    }

    /// Checks the bytes of block 0 and parses them.
    ///
    /// # Errors
    /// Any [`SuperblockError`] but [`NoRoom`](SuperblockError::NoRoom) and
    /// [`Read`](SuperblockError::Read).
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

    /// Returns the on-disk form, without checksum and block number.
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

    /// Returns the on-disk form that replaces `old`, without checksum and block number.
    ///
    /// Everything outside of the first sector stays unchanged. A crash may leave any sector of a
    /// write unwritten. Since only one sector changes, the old superblock is replaced completely or
    /// not at all.
    pub fn to_disk_over(&self, old: &SuperblockDisk) -> SuperblockDisk {
        let mut disk = self.to_disk();
        let kept = size_of_val(&old.reserved) - OUTSIDE_FIRST_SECTOR..;
        disk.reserved[kept.clone()].copy_from_slice(&old.reserved[kept]);
        disk
    }
}

/// Number of bytes of a superblock outside of its first sector.
pub(crate) const OUTSIDE_FIRST_SECTOR: usize = BLOCK_SIZE - SECTOR_SIZE as usize;

/// Reads the bytes of block 0.
pub(crate) fn read_raw<D: ReadDevice + ?Sized>(device: &D) -> Result<RawBlock, SuperblockError> {
    if device.nr_blocks() == 0 {
        return Err(SuperblockError::NoRoom);
    }
    let mut raw = RawBlock::ZERO;
    device.read(SUPERBLOCK, std::slice::from_mut(&mut raw)).map_err(SuperblockError::Read)?;
    Ok(raw)
}
