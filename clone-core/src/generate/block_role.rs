//! The roles of the blocks of metadata.

use std::fmt;

/// The role of a metadata block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRole {
    /// Block 0.
    Superblock,
    /// An internal node of the bitset's btree. The root is 0, and each node comes before its
    /// children.
    BitsetNode,
    /// A leaf of the bitset's btree, by ascending keys.
    BitsetLeaf,
    /// An array block of the bitset, by its index.
    ArrayBlock,
    /// The index of the space map.
    Index,
    /// A bitmap of the space map.
    Bitmap,
    /// A node of the tree of large counts; the root is 0, and the leaves come last.
    RefCounts,
}

impl BlockRole {
    /// All roles.
    pub const ALL: [Self; 7] = [
        Self::Superblock,
        Self::BitsetNode,
        Self::BitsetLeaf,
        Self::ArrayBlock,
        Self::Index,
        Self::Bitmap,
        Self::RefCounts,
    ];

    /// Returns the name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::BitsetNode => "bitset-node",
            Self::BitsetLeaf => "bitset-leaf",
            Self::ArrayBlock => "array-block",
            Self::Index => "index",
            Self::Bitmap => "bitmap",
            Self::RefCounts => "ref-counts",
        }
    }

    /// Returns the name of one of its blocks.
    pub(super) fn numbered(self, ordinal: u64) -> String {
        match self {
            // There is only one.
            Self::Superblock | Self::Index => self.to_string(),
            _ => format!("{self} {ordinal}"),
        }
    }
}

impl fmt::Display for BlockRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
