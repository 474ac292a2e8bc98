//! The table of damage: one row per kind, with its permanent code, its severity, the damaged block
//! and the regions whose state it costs. All that a tool reports of damage except the message comes
//! from here.

use persistent_data::block::BlockError;
use persistent_data::error::{ArrayError, NodeError};
use persistent_data::format::ENTRIES_PER_BITMAP;
use persistent_data::space_map::SpaceMapDamage as M;
use persistent_data::transaction::SUPERBLOCK;
use persistent_data::{BlockNr, Error};

use super::Damage as D;
use super::Severity::{self, Fatal, Leak, Warning};
use crate::geometry::{GeometryError, RegionRange};
use crate::metadata::superblock::SuperblockError as S;

impl D {
    /// Returns all codes, including those that no damage leads to at present: the list for tools
    /// and documents.
    pub fn codes() -> impl Iterator<Item = &'static str> {
        CODES.iter().copied().flatten().copied()
    }

    /// Returns the severity.
    pub fn severity(&self) -> Severity {
        facts(self).severity
    }

    /// Returns a name for scripts. Its meaning never changes.
    pub fn code(&self) -> &'static str {
        facts(self).code
    }

    /// Returns the damaged block, or the first of several.
    pub fn block(&self) -> Option<BlockNr> {
        facts(self).block
    }

    /// Returns whether [`auto_repair`](crate::metadata::auto_repair::auto_repair) can correct it:
    /// the kernel would do no harm to it. A lack of room is fatal for a kernel, but may be due to
    /// leaks, which a repair frees.
    pub fn is_repairable_in_place(&self) -> bool {
        self.severity() < Fatal || matches!(self, Self::NoRoom { .. })
    }

    /// Returns the regions whose state is lost or in doubt, half-open.
    pub fn regions(&self) -> Option<RegionRange> {
        facts(self).regions.cloned()
    }
}

/// A row of the table, for one damage.
struct Facts<'a> {
    /// The name for scripts. Its meaning never changes.
    code: &'static str,
    severity: Severity,
    /// The damaged block, or the first of several.
    block: Option<BlockNr>,
    /// The regions whose state is lost or in doubt, half-open.
    regions: Option<&'a RegionRange>,
}

/// A defect of a single block, whatever structure it belongs to. It is the last part of the code.
#[derive(Clone, Copy)]
enum Defect {
    Unreadable,
    OutOfRange,
    Checksum,
    BlockNumber,
    Flags,
    ValueSize,
    Capacity,
    Entries,
    Keys,
    Depth,
    Unusable,
}

/// Returns the codes of the structure `$place`, in the order of [`Defect`].
macro_rules! block_codes {
    ($place:literal) => {{
        const CODES: [&str; Defect::Unusable as usize + 1] = [
            concat!($place, "-unreadable"),
            concat!($place, "-out-of-range"),
            concat!($place, "-checksum"),
            concat!($place, "-block-number"),
            concat!($place, "-flags"),
            concat!($place, "-value-size"),
            concat!($place, "-capacity"),
            concat!($place, "-entries"),
            concat!($place, "-keys"),
            concat!($place, "-depth"),
            concat!($place, "-unusable"),
        ];
        CODES
    }};
}

impl Defect {
    fn of(error: &Error) -> Self {
        match error {
            Error::Read { .. } => Self::Unreadable,
            Error::OutOfRange { .. } => Self::OutOfRange,
            Error::Block { source: BlockError::Checksum { .. }, .. } => Self::Checksum,
            Error::Block { .. } => Self::BlockNumber,
            Error::Node { source, .. } => match source {
                NodeError::Flags(_) => Self::Flags,
                NodeError::ValueSize { .. } => Self::ValueSize,
                NodeError::Capacity { .. } => Self::Capacity,
                NodeError::Overfull { .. } | NodeError::Empty => Self::Entries,
                NodeError::KeyOrder { .. } | NodeError::KeyRange { .. } => Self::Keys,
                _ => Self::Depth,
            },
            Error::Array { source, .. } => match source {
                ArrayError::ValueSize { .. } => Self::ValueSize,
                ArrayError::Capacity { .. } => Self::Capacity,
                _ => Self::Entries,
            },
            _ => Self::Unusable,
        }
    }
}

/// Returns the code of a row, for one damage.
macro_rules! code {
    ($code:literal) => {
        $code
    };
    ($place:literal, $error:ident) => {
        block_codes!($place)[Defect::of($error) as usize]
    };
}

/// Returns all codes of a row.
macro_rules! codes {
    ($code:literal) => {
        &[$code]
    };
    ($place:literal, $error:ident) => {
        &block_codes!($place)
    };
}

/// Returns the last column of a row, if it has one.
macro_rules! regions {
    () => {
        None
    };
    ($regions:expr) => {
        $regions
    };
}

/// Makes [`facts`] and [`CODES`] of the table. As in a `match`, the first row that fits counts. A
/// row whose code is `"PLACE" + error` has one code for each [`Defect`].
macro_rules! table {
    ($(
        $code:literal $(+ $error:ident)?, $severity:expr,
        $damage:pat => $block:expr $(, $regions:expr)?;
    )*) => {
        /// Returns the facts about `damage`.
        fn facts(damage: &D) -> Facts<'_> {
            match damage {$(
                $damage => Facts {
                    code: code!($code $(, $error)?),
                    severity: $severity,
                    block: $block,
                    regions: regions!($($regions)?),
                },
            )*}
        }

        /// All codes, by row.
        const CODES: &[&[&str]] = &[$(codes!($code $(, $error)?)),*];
    };
}

table! {
    // code, severity,                   damage                                => block, regions
    "device-too-small", Fatal,           D::Superblock(S::NoRoom)              => None;
    "superblock-unreadable", Fatal,      D::Superblock(S::Read(_))             => Some(SUPERBLOCK);
    "superblock-unformatted", Fatal,     D::Superblock(S::Unformatted)         => Some(SUPERBLOCK);
    "superblock-unfinished", Fatal,      D::Superblock(S::Unfinished)          => Some(SUPERBLOCK);
    "superblock-magic", Fatal,           D::Superblock(S::Magic { .. })        => Some(SUPERBLOCK);
    "superblock-checksum", Fatal,
        D::Superblock(S::Block(BlockError::Checksum { .. }))                   => Some(SUPERBLOCK);
    "superblock-block-number", Fatal,    D::Superblock(S::Block(_))            => Some(SUPERBLOCK);
    "superblock-version", Fatal,         D::Superblock(S::Version { .. })      => Some(SUPERBLOCK);
    "superblock-region-size", Fatal,
        D::Superblock(S::Geometry(GeometryError::RegionSize(_)))               => Some(SUPERBLOCK);
    "superblock-target-size", Fatal,     D::Superblock(S::Geometry(_))         => Some(SUPERBLOCK);
    "superblock-flags", Warning,         D::SuperblockFlags(_)                 => Some(SUPERBLOCK);
    "superblock-reserved", Warning,      D::SuperblockReserved                 => Some(SUPERBLOCK);

    "bitset-node" + error, Fatal,
        D::BitsetNode { at, regions, error }                           => Some(*at), Some(regions);
    "bitset-node-not-zero", Warning,     D::BitsetPadding { at }               => Some(*at);
    "bitset-block" + error, Fatal,
        D::BitsetBlock { at, regions, error, .. }                      => Some(*at), Some(regions);
    "bitset-missing", Fatal,             D::BitsetMissing { regions }  => None, Some(regions);
    "bitset-extra", Fatal,               D::BitsetExtra { at, .. }             => Some(*at);
    "bitset-trailing-bits", Fatal,       D::BitsetTrailingBits { at }          => Some(*at);
    "block-shared", Fatal,               D::Shared { at, regions } => Some(*at), regions.as_ref();

    "space-map-full", Fatal,             D::NoRoom { .. }                      => None;
    "space-map-size", Fatal,             D::SpaceMap(M::Size { .. })           => Some(SUPERBLOCK);
    "space-map-used", Leak,              D::SpaceMap(M::NrAllocated { .. })    => Some(SUPERBLOCK);
    "space-map-index" + error, Fatal,    D::SpaceMap(M::Index { at, error })   => Some(*at);
    "space-map-bitmap" + error, Fatal,   D::SpaceMap(M::Bitmap { at, error, .. })  => Some(*at);
    "space-map-free-too-low", Fatal,     D::SpaceMap(M::NrFreeLow { at, .. })  => Some(*at);
    "space-map-free-too-high", of_free_count(*found),
        D::SpaceMap(M::NrFreeHigh { at, found, .. })                           => Some(*at);
    "space-map-hint", Fatal,             D::SpaceMap(M::Hint { at, .. })       => Some(*at);
    "space-map-past-end", Warning,       D::SpaceMap(M::PastEnd { at })        => Some(*at);
    "space-map-not-zero", Warning,       D::SpaceMap(M::NotZero { at, .. })    => Some(*at);

    "ref-count-tree" + error, Fatal,
        D::SpaceMap(M::RefCountTree { at, error, .. })                         => Some(*at);
    "ref-count-tree-not-zero", Warning,  D::SpaceMap(M::NodePadding { at })    => Some(*at);
    "ref-count-missing", Fatal,
        D::SpaceMap(M::CountMissing { blocks })                     => Some(BlockNr(blocks.start));
    "ref-count-needless", Leak,
        D::SpaceMap(M::CountNeedless { block })                     => Some(BlockNr(*block));
    "ref-count-too-low", Fatal,
        D::SpaceMap(M::CountLow { blocks, .. })                     => Some(BlockNr(blocks.start));
    "leaked-blocks", Leak,
        D::SpaceMap(M::Leak { blocks, .. })                         => Some(BlockNr(blocks.start));
    // Damage of a later version of the crate.
    "space-map", Fatal,                  D::SpaceMap(_)                        => None;
}

/// Returns the severity of an index entry that counts too many free blocks, `found`.
fn of_free_count(found: u32) -> Severity {
    // Freeing these blocks later would wrap it to zero: the bitmap would count as full.
    if found > u32::MAX - ENTRIES_PER_BITMAP as u32 { Fatal } else { Leak }
}
