//! Corrects harmless damage in place: leaked blocks, and wrong numbers.

use persistent_data::block::Block;
use persistent_data::device::Device;
use persistent_data::space_map::SpaceMapDamage;
use persistent_data::store::{DeviceReader, Reader, Writer};
use persistent_data::transaction::{SUPERBLOCK, Transaction};
use persistent_data::{BlockNr, Error};
use thiserror::Error;

use crate::metadata::check::Report;
use crate::metadata::damage::Damage;
use crate::metadata::format::{self, SuperblockDisk};
use crate::metadata::superblock::OUTSIDE_FIRST_SECTOR;

/// Reason why not all damage was corrected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AutoRepairError {
    /// Some damage must not be corrected in place: blocks that look leaked may be referred to by
    /// unreadable ones. Nothing was written.
    #[error(
        "the metadata is damaged beyond what can be put right in place; clone_repair makes whole \
         metadata of what can be recovered"
    )]
    Damaged,
    /// There is no room for copies of the space map blocks that change. No block that the
    /// superblock reaches was written.
    #[error(
        "no free block is left to write the corrected space map to; clone_repair copies the \
         metadata to a larger device"
    )]
    NoSpace,
    /// An operation on the metadata's blocks failed.
    #[error(transparent)]
    Blocks(Error),
}

impl From<Error> for AutoRepairError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoSpace => Self::NoSpace,
            error => Self::Blocks(error),
        }
    }
}

/// Summary of the corrections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Number of leaked blocks that were freed.
    pub leaked_blocks: u64,
    /// Number of other wrong numbers and nonzero unused areas.
    pub figures: u64,
}

/// Corrects the damage in `report`, a check of everything on this device, in one transaction.
/// Without damage it writes nothing.
///
/// Nonzero areas of the superblock outside of its first sector stay: see
/// [`to_disk_over`](crate::metadata::superblock::Superblock::to_disk_over).
///
/// # Errors
/// [`AutoRepairError::Damaged`] for other damage, [`AutoRepairError::NoSpace`] without room for the
/// copies, and [`AutoRepairError::Blocks`]. The metadata is then unchanged, unless writing the
/// superblock failed.
pub fn auto_repair<D: Device>(device: &D, report: &Report) -> Result<Repaired, AutoRepairError> {
    if report.damage.is_empty() {
        return Ok(Repaired::default());
    }
    let superblock = match report.superblock {
        Some(superblock) if report.is_repairable_in_place() => superblock,
        _ => return Err(AutoRepairError::Damaged),
    };
    let old: Block<format::Superblock> = DeviceReader(device).read(SUPERBLOCK)?;
    let mut transaction = Transaction::open(device, &superblock.space_map_root)?;
    let mut repaired = Repaired::default();
    // Opening recomputes all numbers of the index.
    transaction.tidy_space_map();
    for damage in &report.damage {
        match damage {
            Damage::SpaceMap(SpaceMapDamage::Leak { blocks, found, .. }) => {
                for at in blocks.clone() {
                    transaction.correct_count(BlockNr(at), *found)?;
                }
                repaired.leaked_blocks += blocks.end - blocks.start;
            }
            Damage::SpaceMap(SpaceMapDamage::CountNeedless { block })
                if *block < transaction.nr_blocks() =>
            {
                let count = transaction.count(BlockNr(*block))?;
                transaction.correct_count(BlockNr(*block), count)?;
                repaired.figures += 1;
            }
            Damage::SuperblockReserved if !is_zero_outside_first_sector(&old) => {}
            // Not worth a copy of the node, since the padding is never read.
            Damage::BitsetPadding { .. } | Damage::SpaceMap(SpaceMapDamage::NodePadding { .. }) => {
            }
            // Freeing the leaks makes room, if anything does.
            Damage::NoRoom { .. } => {}
            _ => repaired.figures += 1,
        }
    }
    if repaired == Repaired::default() {
        return Ok(repaired);
    }
    let prepared = transaction.prepare()?;
    let mut superblock = superblock;
    superblock.space_map_root = *prepared.space_map_root();
    prepared.commit::<format::Superblock>(&superblock.to_disk_over(&old))?;
    Ok(repaired)
}

fn is_zero_outside_first_sector(superblock: &SuperblockDisk) -> bool {
    superblock.reserved.iter().rev().take(OUTSIDE_FIRST_SECTOR).all(|&byte| byte == 0)
}
