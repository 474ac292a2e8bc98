//! Tables of damage cases: the change to an image, the codes that a check must report, and their
//! severity.
//!
//! The tests of the tools use them, and the kernel tests ask a real kernel for its verdict on each
//! case.

mod array_block;
mod blocks;
mod large_counts;
mod node;
mod pointers;
mod space_map;
mod superblock;

use super::case::Case;

/// Cases with a common subject.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Description of the subject.
    pub about: &'static str,
    /// The cases.
    pub cases: &'static [Case],
}

const fn about(about: &'static str, cases: &'static [Case]) -> Table {
    Table { about, cases }
}

/// All tables.
pub const TABLES: &[Table] = &[
    about("a block", blocks::WHOLE),
    about("the superblock", superblock::HEADER),
    about("sizes in the superblock", superblock::SIZES),
    about("roots in the superblock", superblock::ROOTS),
    about("bitset, the only node", node::ONE_LEVEL_HEADER),
    about("bitset, nodes on two levels", node::TWO_LEVELS_HEADER),
    about("bitset, keys", pointers::KEYS),
    about("bitset, pointers", pointers::POINTERS),
    about("bitset, array block", array_block::HEADER),
    about("bitset, bits", array_block::TAIL),
    about("space map, index", space_map::INDEX),
    about("space map, bitmap", space_map::BITMAP),
    about("space map, counts", space_map::COUNTS),
    about("ref count tree, entries", large_counts::LARGE_COUNTS),
    about("ref count tree, header", large_counts::LARGE_COUNTS_HEADER),
    about("ref count tree that is needed", large_counts::NEEDED),
];
