//! Getting damaged metadata back: all that can be known of the regions, and what cannot.
//!
//! *Invariants:* what comes out as hydrated was hydrated, what comes out as neither hydrated nor
//! lost was not; of everything else it is said that it is lost. Nothing is written here.

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use thiserror::Error;

use crate::check::read;
use crate::damage::Damage;
use crate::geometry::{Geometry, RegionRange};
use crate::ir::Header;
use crate::progress::Progress;
use crate::region_map::RegionMap;
use crate::superblock::SuperblockError;

/// Why nothing could be recovered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The superblock is lost, and with it the sizes of the clone.
    #[error("block 0, the superblock: {error}; the sizes of the clone have to be given")]
    SizesUnknown {
        /// What is wrong with the superblock.
        error: SuperblockError,
        /// What the bitsets that were found allow, the best one first.
        fits: Vec<Fit>,
    },
    /// The superblock is sound, and says something else than the caller.
    #[error("the superblock is sound, and says {found:?} instead of {wanted:?}")]
    OtherSizes {
        /// What the superblock says.
        found: Geometry,
        /// What the caller said.
        wanted: Geometry,
    },
    /// No bitset of a clone of this size was found.
    #[error("there is no bitset of a clone of {} regions here", .wanted.nr_regions())]
    NoBitset {
        /// What the caller said.
        wanted: Geometry,
        /// What the bitsets that were found allow, the best one first.
        fits: Vec<Fit>,
    },
}

/// How many regions a clone can have whose bitset was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// A bitset's root.
    pub root: BlockNr,
    /// The numbers of regions that it is right for, half-open.
    pub nr_regions: std::ops::Range<u64>,
}

/// What was recovered.
#[derive(Debug)]
pub struct Recovery {
    /// The uuid, zero if the superblock was lost, and the sizes of the clone.
    pub header: Header,
    /// What is known of the regions. What is not is lost.
    pub regions: RegionMap,
    /// All that is wrong with the metadata.
    pub damage: Vec<Damage>,
    /// Where the bitset's root was found.
    pub origin: Origin,
    /// Which regions were got back from something else than the bitset itself, and how.
    pub finds: Vec<Find>,
    /// The bitset roots that were looked at, the best one first; none if the superblock and the
    /// bitset's nodes are sound.
    pub candidates: Vec<Candidate>,
}

/// Where the root of the bitset was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In the superblock.
    Superblock,
    /// By a scan of the device.
    Scan {
        /// Where it lies.
        root: BlockNr,
        /// Whether it is sure that no newer one was lost. If it is not, every region that is not
        /// hydrated is lost: it may have been hydrated since.
        is_newest: bool,
    },
}

/// Regions that were got back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Find {
    /// The regions of one array block, half-open.
    pub regions: RegionRange,
    /// The block that tells of them.
    pub at: BlockNr,
    /// What it tells.
    pub copy: Copy,
}

/// What a block tells of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Copy {
    /// All: it is the block that the last commit refers to.
    Last,
    /// What was hydrated when it was written. The other regions are lost.
    Older,
}

/// A root of a bitset of the right size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it lies.
    pub root: BlockNr,
    /// Array blocks that it leads to and that are sound.
    pub array_blocks: u64,
    /// Array blocks that are damaged.
    pub missing: u64,
    /// Hydrated regions in those that are sound.
    pub hydrated: u64,
    /// Whether a space map was found that counts exactly the blocks that it leads to.
    pub vouched_for: bool,
    /// Why it was not taken; `None` if it was.
    pub verdict: Option<Verdict>,
}

/// Why a candidate was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Some of what is hydrated elsewhere is not in it.
    Older,
    /// It cannot be told from the one that was taken which is the newer one. Where they differ,
    /// regions are lost.
    Tie,
}

/// Finds out all that can be known of the regions of damaged metadata.
///
/// `sizes` are what the user knows of the clone; they are needed if the superblock is lost.
///
/// # Errors
/// See [`RepairError`]. Whatever cannot be read is damage, not an error.
pub fn recover<D: ReadDevice + ?Sized>(
    device: &D,
    sizes: Option<Geometry>,
    progress: &dyn Progress,
) -> Result<Recovery, RepairError> {
    let report = read(device, progress);
    let (Some(superblock), Some(regions)) = (report.superblock, report.regions) else {
        let error = report.damage.into_iter().find_map(|damage| match damage {
            Damage::Superblock(error) => Some(error),
            _ => None,
        });
        let error = error.unwrap_or(SuperblockError::NoRoom);
        return Err(match sizes {
            Some(wanted) => RepairError::NoBitset { wanted, fits: Vec::new() },
            None => RepairError::SizesUnknown { error, fits: Vec::new() },
        });
    };
    let found = superblock.header.geometry;
    match sizes {
        Some(wanted) if wanted != found => Err(RepairError::OtherSizes { found, wanted }),
        _ => Ok(Recovery {
            header: superblock.header,
            regions,
            damage: report.damage,
            origin: Origin::Superblock,
            finds: Vec::new(),
            candidates: Vec::new(),
        }),
    }
}
