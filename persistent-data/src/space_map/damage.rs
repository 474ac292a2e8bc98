//! The kinds of damage to a space map.

use std::ops::Range;

use thiserror::Error;

use crate::error::Error as BlockDamage;
use crate::number::BlockNr;

/// A defect of a space map.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpaceMapDamage {
    /// The map covers no blocks, or more than the device has or the format allows.
    #[error("it covers {nr_blocks} blocks, but there are {present} that it can cover")]
    Size {
        /// Number of blocks in the root.
        nr_blocks: u64,
        /// Maximum valid number.
        present: u64,
    },
    /// The index block is unusable.
    #[error("the index is unusable: {error}")]
    Index {
        /// Block number of the index.
        at: BlockNr,
        /// The defect.
        error: BlockDamage,
    },
    /// A bitmap is unusable.
    #[error("bitmap {bitmap} is unusable: {error}")]
    Bitmap {
        /// Index of the bitmap.
        bitmap: u64,
        /// Block number of the bitmap.
        at: BlockNr,
        /// The defect.
        error: BlockDamage,
    },
    /// A part of the tree of large counts is unusable.
    #[error("the ref count tree is unusable for blocks from {} on: {error}", .keys.start)]
    RefCountTree {
        /// Block number of the node.
        at: BlockNr,
        /// The blocks, half-open, whose counts were in this part.
        keys: Range<u64>,
        /// The defect.
        error: BlockDamage,
    },
    /// The index counts fewer free entries than the bitmap has.
    #[error("the index says {found} free entries of bitmap {bitmap}, it has {expected}: too few")]
    NrFreeLow {
        /// Block number of the index.
        at: BlockNr,
        /// Index of the bitmap.
        bitmap: u64,
        /// Number in the index.
        found: u32,
        /// Number in the bitmap.
        expected: u32,
    },
    /// The index counts more free entries than the bitmap has.
    #[error("the index says {found} free entries of bitmap {bitmap}, it has {expected}: too many")]
    NrFreeHigh {
        /// Block number of the index.
        at: BlockNr,
        /// Index of the bitmap.
        bitmap: u64,
        /// Number in the index.
        found: u32,
        /// Number in the bitmap.
        expected: u32,
    },
    /// The index's hint claims that no entry before it is free, but one is.
    #[error("the index says that bitmap {bitmap} has no free entry before {hint}, {free} is free")]
    Hint {
        /// Block number of the index.
        at: BlockNr,
        /// Index of the bitmap.
        bitmap: u64,
        /// Hint in the index.
        hint: u32,
        /// The first free entry.
        free: u32,
    },
    /// The number of used blocks in the root differs from the sum of the bitmaps.
    #[error("the root says that {found} blocks are in use, the bitmaps say {expected}")]
    NrAllocated {
        /// Number in the root.
        found: u64,
        /// Sum of the bitmaps.
        expected: u64,
    },
    /// Entries for blocks past the end of the device are not zero.
    #[error("the last bitmap has counts for blocks past the end")]
    PastEnd {
        /// Block number of the bitmap.
        at: BlockNr,
    },
    /// An area that must be zero is not.
    #[error("{what} is not zero")]
    NotZero {
        /// Block number.
        at: BlockNr,
        /// Name of the area.
        what: &'static str,
    },
    /// The padding of a node of the ref count tree is not zero.
    #[error("the padding of a ref count tree node is not zero")]
    NodePadding {
        /// Block number of the node.
        at: BlockNr,
    },
    /// A bitmap refers to the tree for the counts of these blocks, but the tree does not have them.
    #[error("the ref count tree lacks the counts of {}", blocks_text(.blocks))]
    CountMissing {
        /// The blocks, half-open.
        blocks: Range<u64>,
    },
    /// The tree has a count for a block whose count the bitmap holds or should hold.
    #[error("the ref count tree has a needless entry for block {block}")]
    CountNeedless {
        /// The block.
        block: u64,
    },
    /// The count is below the references that were found: blocks in use could be allocated.
    #[error(
        "{}: the count is {counted}, but {found} references were found",
        blocks_text(.blocks)
    )]
    CountLow {
        /// The blocks, half-open.
        blocks: Range<u64>,
        /// Count in the space map.
        counted: u32,
        /// Number of references that were found.
        found: u32,
    },
    /// The count is above the references that were found: the blocks cannot be allocated.
    #[error(
        "{}: leaked: the count is {counted}, but {found} references were found",
        blocks_text(.blocks)
    )]
    Leak {
        /// The blocks, half-open.
        blocks: Range<u64>,
        /// Count in the space map.
        counted: u32,
        /// Number of references that were found.
        found: u32,
    },
}

fn blocks_text(blocks: &Range<u64>) -> String {
    match blocks.end - blocks.start {
        1 => format!("block {}", blocks.start),
        _ => format!("blocks {}..{}", blocks.start, blocks.end),
    }
}

/// Merges the damage of adjacent blocks if it is the same.
pub(super) fn merge(
    open: Option<SpaceMapDamage>,
    next: SpaceMapDamage,
) -> (SpaceMapDamage, Option<SpaceMapDamage>) {
    use SpaceMapDamage as D;
    let Some(mut open) = open else { return (next, None) };
    let joined = match (&mut open, &next) {
        (D::CountMissing { blocks }, D::CountMissing { blocks: more }) => join(blocks, more),
        (
            D::CountLow { blocks, counted, found },
            D::CountLow { blocks: more, counted: c, found: f },
        )
        | (D::Leak { blocks, counted, found }, D::Leak { blocks: more, counted: c, found: f })
            if (*counted, *found) == (*c, *f) =>
        {
            join(blocks, more)
        }
        _ => false,
    };
    if joined { (open, None) } else { (open, Some(next)) }
}

fn join(blocks: &mut Range<u64>, more: &Range<u64>) -> bool {
    let adjacent = blocks.end == more.start;
    if adjacent {
        blocks.end = more.end;
    }
    adjacent
}
