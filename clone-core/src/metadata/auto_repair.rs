//! Putting right in place what is wrong without being dangerous: leaked blocks and figures.

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

/// Why nothing, or not all, was put right.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AutoRepairError {
    /// There is damage of a kind that must not be touched in place: what looks leaked may be in
    /// use by what could not be read. Nothing was written.
    #[error(
        "the metadata is damaged beyond what can be put right in place; clone_repair makes whole \
         metadata of what can be recovered"
    )]
    Damaged,
    /// A copy of the space map blocks that change must fit beside the old ones. Nothing was
    /// written that the superblock reaches.
    #[error(
        "no free block is left to write the corrected space map to; clone_repair copies the \
         metadata to a larger device"
    )]
    NoSpace,
    /// The blocks below failed.
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

/// What was put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Blocks that were counted too often.
    pub leaked_blocks: u64,
    /// Other figures and unused areas that were wrong.
    pub figures: u64,
}

/// Puts right what `report`, a check of everything on this device, found, in one transaction.
/// With nothing to do it writes nothing.
///
/// What is not zero in the superblock outside of its first sector stays: see
/// [`to_disk_over`](crate::metadata::superblock::Superblock::to_disk_over).
///
/// # Errors
/// See [`AutoRepairError`]. The metadata is as it was then, unless writing the superblock failed.
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
    // All figures of the index are counted anew on opening.
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
            // Not worth copying a node for: nothing looks at its padding.
            Damage::BitsetPadding { .. } | Damage::SpaceMap(SpaceMapDamage::NodePadding { .. }) => {
            }
            // Freeing leaks makes the room, if anything does.
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
