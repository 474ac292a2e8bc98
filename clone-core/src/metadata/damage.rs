//! The kinds of damage to metadata, each with a permanent name, a severity and the lost regions.

use std::fmt;

use persistent_data::block::BlockError;
use persistent_data::error::{ArrayError, NodeError};
use persistent_data::format::ENTRIES_PER_BITMAP;
use persistent_data::space_map::SpaceMapDamage;
use persistent_data::transaction::SUPERBLOCK;
use persistent_data::{BlockNr, Error};

use crate::geometry::{GeometryError, RegionRange};
use crate::metadata::superblock::SuperblockError;

/// Severity of damage. The classification was found by tests with a real kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The metadata violates the format, without consequences.
    Warning,
    /// Space is lost or numbers are wrong. A kernel opens it, writes to it and leaves it intact.
    Leak,
    /// A kernel would refuse it, misread it, overwrite used blocks, fail its next commit or crash.
    Fatal,
}

impl Severity {
    /// Returns the name for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Leak => "leak",
            Self::Fatal => "fatal",
        }
    }
}

/// One defect.
#[derive(Debug)]
#[non_exhaustive]
pub enum Damage {
    /// The superblock is unusable, and so is all other metadata.
    Superblock(SuperblockError),
    /// The superblock's flags are not zero.
    SuperblockFlags(u32),
    /// A superblock area without meaning is not zero.
    SuperblockReserved,
    /// A node of the bitset's btree is unusable.
    BitsetNode {
        /// Number of the block.
        at: BlockNr,
        /// Regions whose state is lost with it, half-open.
        regions: RegionRange,
        /// The defect.
        error: Error,
    },
    /// The padding of a node of the bitset's btree is not zero.
    BitsetPadding {
        /// Number of the block.
        at: BlockNr,
    },
    /// An array block of the bitset is unusable.
    BitsetBlock {
        /// Its index in the array.
        index: u64,
        /// Number of the block.
        at: BlockNr,
        /// Regions whose state is lost with it, half-open.
        regions: RegionRange,
        /// The defect.
        error: Error,
    },
    /// The btree has no array blocks for these regions.
    BitsetMissing {
        /// Regions whose state is lost, half-open.
        regions: RegionRange,
    },
    /// The btree has an array block past the target's size.
    BitsetExtra {
        /// Its index in the array.
        index: u64,
        /// Number of the block.
        at: BlockNr,
    },
    /// Bits past the last region are set.
    BitsetTrailingBits {
        /// Number of the array block.
        at: BlockNr,
    },
    /// Two parents point to one block, and one of them must be wrong.
    Shared {
        /// Number of the block.
        at: BlockNr,
        /// Regions whose state is in doubt, half-open.
        regions: Option<RegionRange>,
    },
    /// The clone needs another commit, but there is no room for one.
    NoRoom {
        /// Number of free blocks.
        free: u64,
        /// Number of blocks that the smallest commit needs.
        needed: u64,
    },
    /// The space map is damaged, or does not agree with the references that were found.
    SpaceMap(SpaceMapDamage),
}

/// Returns the permanent name of the damage to a block in the structure `$place`.
macro_rules! block_codes {
    ($place:literal, $error:expr) => {
        match $error {
            Error::Read { .. } => concat!($place, "-unreadable"),
            Error::OutOfRange { .. } => concat!($place, "-out-of-range"),
            Error::Block { source: BlockError::Checksum { .. }, .. } => {
                concat!($place, "-checksum")
            }
            Error::Block { .. } => concat!($place, "-block-number"),
            Error::Node { source, .. } => match source {
                NodeError::Flags(_) => concat!($place, "-flags"),
                NodeError::ValueSize { .. } => concat!($place, "-value-size"),
                NodeError::Capacity { .. } => concat!($place, "-capacity"),
                NodeError::Overfull { .. } | NodeError::Empty => concat!($place, "-entries"),
                NodeError::KeyOrder { .. } | NodeError::KeyRange { .. } => {
                    concat!($place, "-keys")
                }
                _ => concat!($place, "-depth"),
            },
            Error::Array { source, .. } => match source {
                ArrayError::ValueSize { .. } => concat!($place, "-value-size"),
                ArrayError::Capacity { .. } => concat!($place, "-capacity"),
                _ => concat!($place, "-entries"),
            },
            _ => concat!($place, "-unusable"),
        }
    };
}

impl Damage {
    /// Returns the severity.
    pub fn severity(&self) -> Severity {
        match self {
            Self::SuperblockFlags(_) | Self::SuperblockReserved | Self::BitsetPadding { .. } => {
                Severity::Warning
            }
            Self::SpaceMap(damage) => match damage {
                SpaceMapDamage::NotZero { .. }
                | SpaceMapDamage::NodePadding { .. }
                | SpaceMapDamage::PastEnd { .. } => Severity::Warning,
                // Freeing these blocks later would wrap it to zero: the bitmap would count as full.
                SpaceMapDamage::NrFreeHigh { found, .. }
                    if *found > u32::MAX - ENTRIES_PER_BITMAP as u32 =>
                {
                    Severity::Fatal
                }
                SpaceMapDamage::NrFreeHigh { .. }
                | SpaceMapDamage::NrAllocated { .. }
                | SpaceMapDamage::CountNeedless { .. }
                | SpaceMapDamage::Leak { .. } => Severity::Leak,
                _ => Severity::Fatal,
            },
            _ => Severity::Fatal,
        }
    }

    /// Returns a name for scripts. Its meaning never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Superblock(error) => superblock_code(error),
            Self::SuperblockFlags(_) => "superblock-flags",
            Self::SuperblockReserved => "superblock-reserved",
            Self::BitsetNode { error, .. } => block_codes!("bitset-node", error),
            Self::BitsetPadding { .. } => "bitset-node-not-zero",
            Self::BitsetBlock { error, .. } => block_codes!("bitset-block", error),
            Self::BitsetMissing { .. } => "bitset-missing",
            Self::BitsetExtra { .. } => "bitset-extra",
            Self::BitsetTrailingBits { .. } => "bitset-trailing-bits",
            Self::Shared { .. } => "block-shared",
            Self::NoRoom { .. } => "space-map-full",
            Self::SpaceMap(damage) => space_map_code(damage),
        }
    }

    /// Returns the damaged block, or the first of several.
    pub fn block(&self) -> Option<BlockNr> {
        match self {
            Self::Superblock(SuperblockError::NoRoom)
            | Self::BitsetMissing { .. }
            | Self::NoRoom { .. } => None,
            Self::Superblock(_) | Self::SuperblockFlags(_) | Self::SuperblockReserved => {
                Some(SUPERBLOCK)
            }
            Self::BitsetNode { at, .. }
            | Self::BitsetPadding { at }
            | Self::BitsetBlock { at, .. }
            | Self::BitsetExtra { at, .. }
            | Self::BitsetTrailingBits { at }
            | Self::Shared { at, .. } => Some(*at),
            Self::SpaceMap(damage) => match damage {
                SpaceMapDamage::Size { .. } | SpaceMapDamage::NrAllocated { .. } => {
                    Some(SUPERBLOCK)
                }
                SpaceMapDamage::Index { at, .. }
                | SpaceMapDamage::NrFreeLow { at, .. }
                | SpaceMapDamage::NrFreeHigh { at, .. }
                | SpaceMapDamage::Hint { at, .. }
                | SpaceMapDamage::Bitmap { at, .. }
                | SpaceMapDamage::RefCountTree { at, .. }
                | SpaceMapDamage::PastEnd { at }
                | SpaceMapDamage::NodePadding { at }
                | SpaceMapDamage::NotZero { at, .. } => Some(*at),
                SpaceMapDamage::CountMissing { blocks }
                | SpaceMapDamage::CountLow { blocks, .. }
                | SpaceMapDamage::Leak { blocks, .. } => Some(BlockNr(blocks.start)),
                SpaceMapDamage::CountNeedless { block } => Some(BlockNr(*block)),
                _ => None,
            },
        }
    }

    /// Returns the regions whose state is lost or in doubt, half-open.
    pub fn regions(&self) -> Option<RegionRange> {
        match self {
            Self::BitsetNode { regions, .. }
            | Self::BitsetBlock { regions, .. }
            | Self::BitsetMissing { regions } => Some(regions.clone()),
            Self::Shared { regions, .. } => regions.clone(),
            _ => None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock(error @ (SuperblockError::NoRoom | SuperblockError::Read(_))) => {
                write!(f, "superblock: {error}")
            }
            Self::Superblock(error) => write!(f, "block 0, the superblock: {error}"),
            Self::SuperblockFlags(flags) => {
                write!(f, "block 0, the superblock: unknown flags {flags:#x}")
            }
            Self::SuperblockReserved => {
                write!(f, "block 0, the superblock: a part without meaning is not zero")
            }
            Self::BitsetNode { at, regions, error } => {
                write!(f, "block {at}, bitset btree node: {}; {}", cause(error), lost(regions))
            }
            Self::BitsetBlock { index, at, regions, error } => write!(
                f,
                "block {at}, bitset array block {index}: {}; {}",
                cause(error),
                lost(regions)
            ),
            Self::BitsetPadding { at } => {
                write!(f, "block {at}, bitset btree node: the padding is not zero")
            }
            Self::BitsetMissing { regions } => {
                write!(f, "the bitset has no array blocks here; {}", lost(regions))
            }
            Self::BitsetExtra { index, at } => write!(
                f,
                "block {at}, bitset array block {index}: the target's size leaves no regions for it"
            ),
            Self::BitsetTrailingBits { at } => {
                write!(f, "block {at}, last bitset array block: bits past the last region are set")
            }
            Self::Shared { at, regions: Some(regions) } => {
                write!(f, "block {at}: more than one parent points to it; {}", lost(regions))
            }
            Self::Shared { at, regions: None } => {
                write!(f, "block {at}: more than one parent points to it")
            }
            Self::NoRoom { free, needed } => write!(
                f,
                "space map: {free} blocks are free, and the smallest commit takes {needed}"
            ),
            Self::SpaceMap(damage) => match damage {
                SpaceMapDamage::Index { at, error } => {
                    write!(f, "block {at}, space map index: {}; all counts unknown", cause(error))
                }
                SpaceMapDamage::Bitmap { bitmap, at, error } => write!(
                    f,
                    "block {at}, space map bitmap {bitmap}: {}; its counts are unknown",
                    cause(error)
                ),
                SpaceMapDamage::RefCountTree { at, error, .. } => {
                    write!(f, "block {at}, ref count tree node: {}", cause(error))
                }
                SpaceMapDamage::Size { .. } | SpaceMapDamage::NrAllocated { .. } => {
                    write!(f, "block {SUPERBLOCK}, the superblock, of the space map: {damage}")
                }
                SpaceMapDamage::NrFreeLow { at, .. }
                | SpaceMapDamage::NrFreeHigh { at, .. }
                | SpaceMapDamage::Hint { at, .. }
                | SpaceMapDamage::NotZero { at, .. }
                | SpaceMapDamage::NodePadding { at }
                | SpaceMapDamage::PastEnd { at } => write!(f, "block {at}, space map: {damage}"),
                _ => write!(f, "space map: {damage}"),
            },
        }
    }
}

fn lost(regions: &RegionRange) -> String {
    format!("regions {}..{} unknown", regions.start, regions.end)
}

/// Describes the defect without the block number, which the message has already named.
fn cause(error: &Error) -> String {
    match error {
        Error::Read { source, .. } => format!("cannot be read: {source}"),
        Error::Block { source, .. } => source.to_string(),
        Error::Node { source, .. } => source.to_string(),
        Error::Array { source, .. } => source.to_string(),
        Error::OutOfRange { nr_blocks, .. } => {
            format!("this is past the end of the device at block {nr_blocks}")
        }
        other => other.to_string(),
    }
}

fn superblock_code(error: &SuperblockError) -> &'static str {
    match error {
        SuperblockError::NoRoom => "device-too-small",
        SuperblockError::Read(_) => "superblock-unreadable",
        SuperblockError::Unformatted => "superblock-unformatted",
        SuperblockError::Unfinished => "superblock-unfinished",
        SuperblockError::Magic { .. } => "superblock-magic",
        SuperblockError::Block(BlockError::Checksum { .. }) => "superblock-checksum",
        SuperblockError::Block(_) => "superblock-block-number",
        SuperblockError::Version { .. } => "superblock-version",
        SuperblockError::Geometry(GeometryError::RegionSize(_)) => "superblock-region-size",
        SuperblockError::Geometry(_) => "superblock-target-size",
    }
}

fn space_map_code(damage: &SpaceMapDamage) -> &'static str {
    match damage {
        SpaceMapDamage::Size { .. } => "space-map-size",
        SpaceMapDamage::Index { error, .. } => block_codes!("space-map-index", error),
        SpaceMapDamage::Bitmap { error, .. } => block_codes!("space-map-bitmap", error),
        SpaceMapDamage::RefCountTree { error, .. } => block_codes!("ref-count-tree", error),
        SpaceMapDamage::NrFreeLow { .. } => "space-map-free-too-low",
        SpaceMapDamage::NrFreeHigh { .. } => "space-map-free-too-high",
        SpaceMapDamage::Hint { .. } => "space-map-hint",
        SpaceMapDamage::NrAllocated { .. } => "space-map-used",
        SpaceMapDamage::PastEnd { .. } => "space-map-past-end",
        SpaceMapDamage::NotZero { .. } => "space-map-not-zero",
        SpaceMapDamage::NodePadding { .. } => "ref-count-tree-not-zero",
        SpaceMapDamage::CountMissing { .. } => "ref-count-missing",
        SpaceMapDamage::CountNeedless { .. } => "ref-count-needless",
        SpaceMapDamage::CountLow { .. } => "ref-count-too-low",
        SpaceMapDamage::Leak { .. } => "leaked-blocks",
        _ => "space-map",
    }
}
