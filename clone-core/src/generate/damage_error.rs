//! The error of a damage that was not done.

use persistent_data::{BlockNr, Error};
use thiserror::Error;

use super::block_role::BlockRole;
use crate::metadata::superblock::SuperblockError;

/// Reason why nothing was damaged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DamageError {
    /// The bitset's btree has only one level.
    #[error(
        "the bitset's btree is a single leaf and has no bitset-node: it takes more than 252 array \
         blocks, which are 8209152 regions, for a level above the leaves"
    )]
    NoInternalNodes,
    /// The ordinal is too high.
    #[error("there is no {role} {ordinal}: they are counted from 0, and there are {count}")]
    NoSuchBlock {
        /// BlockRole of block.
        role: BlockRole,
        /// Requested ordinal.
        ordinal: u64,
        /// Number of blocks with this role.
        count: u64,
    },
    /// The device holds no block that can be an older copy of this one.
    #[error("the device holds no older copy of block {at}, {}", .role.numbered(*ordinal))]
    NoOlderCopy {
        /// BlockRole of the block.
        role: BlockRole,
        /// Ordinal of the block.
        ordinal: u64,
        /// Number of the block.
        at: BlockNr,
    },
    /// The superblock is not usable.
    #[error("block 0, the superblock")]
    Superblock(#[from] SuperblockError),
    /// The block, or the path to it, is already damaged; or the device failed.
    #[error(transparent)]
    Blocks(#[from] Error),
}
