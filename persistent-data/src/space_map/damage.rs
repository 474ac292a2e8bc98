//! What can be wrong with a space map.

use std::ops::Range;

use thiserror::Error;

use crate::error::Error as BlockDamage;
use crate::number::BlockNr;

/// What is wrong with a space map.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpaceMapDamage {
    /// It covers nothing, or more than the device has or the format allows.
    #[error("it covers {nr_blocks} blocks, but there are {present} that it can cover")]
    Size {
        /// What the root says.
        nr_blocks: u64,
        /// The most that it may say.
        present: u64,
    },
    /// The index block is not usable.
    #[error("the index is unusable: {error}")]
    Index {
        /// Where.
        at: BlockNr,
        /// What is wrong.
        error: BlockDamage,
    },
    /// A bitmap is not usable.
    #[error("bitmap {bitmap} is unusable: {error}")]
    Bitmap {
        /// Its number.
        bitmap: u64,
        /// Where.
        at: BlockNr,
        /// What is wrong.
        error: BlockDamage,
    },
    /// A part of the tree of large counts is not usable.
    #[error("the ref count tree is unusable for blocks from {} on: {error}", .keys.start)]
    RefCountTree {
        /// Where.
        at: BlockNr,
        /// The blocks, half-open, whose counts it had.
        keys: Range<u64>,
        /// What is wrong.
        error: BlockDamage,
    },
    /// The index counts fewer free entries than the bitmap has.
    #[error("the index says {found} free entries of bitmap {bitmap}, it has {expected}: too few")]
    NrFreeLow {
        /// Where the index lies.
        at: BlockNr,
        /// The bitmap's number.
        bitmap: u64,
        /// What the index says.
        found: u32,
        /// What the bitmap has.
        expected: u32,
    },
    /// The index counts more free entries than the bitmap has.
    #[error("the index says {found} free entries of bitmap {bitmap}, it has {expected}: too many")]
    NrFreeHigh {
        /// Where the index lies.
        at: BlockNr,
        /// The bitmap's number.
        bitmap: u64,
        /// What the index says.
        found: u32,
        /// What the bitmap has.
        expected: u32,
    },
    /// The index says that there is no free entry where there is one.
    #[error("the index says that bitmap {bitmap} has no free entry before {hint}, {free} is free")]
    Hint {
        /// Where the index lies.
        at: BlockNr,
        /// The bitmap's number.
        bitmap: u64,
        /// What the index says.
        hint: u32,
        /// The first free entry.
        free: u32,
    },
    /// The root's sum of used blocks is not what the bitmaps add up to.
    #[error("the root says that {found} blocks are in use, the bitmaps say {expected}")]
    NrAllocated {
        /// What the root says.
        found: u64,
        /// What the bitmaps say.
        expected: u64,
    },
    /// Entries for blocks that do not exist are not zero.
    #[error("the last bitmap has counts for blocks past the end")]
    PastEnd {
        /// Where the bitmap lies.
        at: BlockNr,
    },
    /// An area that should be zero is not.
    #[error("{what} is not zero")]
    NotZero {
        /// Where.
        at: BlockNr,
        /// What.
        what: &'static str,
    },
    /// The padding of a node of the ref count tree is not zero.
    #[error("the padding of a ref count tree node is not zero")]
    NodePadding {
        /// Where.
        at: BlockNr,
    },
    /// The tree has no count for blocks whose bitmap leaves it to the tree.
    #[error("the ref count tree lacks the counts of {}", blocks_text(.blocks))]
    CountMissing {
        /// The blocks, half-open.
        blocks: Range<u64>,
    },
    /// The tree has a count for a block whose bitmap has it too, or one that belongs there.
    #[error("the ref count tree has a needless entry for block {block}")]
    CountNeedless {
        /// The block.
        block: u64,
    },
    /// Fewer references are counted than were found: the blocks could be allocated while in use.
    #[error(
        "{}: the count is {counted}, but {found} references were found",
        blocks_text(.blocks)
    )]
    CountLow {
        /// The blocks, half-open.
        blocks: Range<u64>,
        /// What the space map says.
        counted: u32,
        /// References that were found.
        found: u32,
    },
    /// More references are counted than were found: the blocks are lost to use.
    #[error(
        "{}: leaked: the count is {counted}, but {found} references were found",
        blocks_text(.blocks)
    )]
    Leak {
        /// The blocks, half-open.
        blocks: Range<u64>,
        /// What the space map says.
        counted: u32,
        /// References that were found.
        found: u32,
    },
}

fn blocks_text(blocks: &Range<u64>) -> String {
    match blocks.end - blocks.start {
        1 => format!("block {}", blocks.start),
        _ => format!("blocks {}..{}", blocks.start, blocks.end),
    }
}

/// Joins the damage of neighbouring blocks where it is the same.
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
