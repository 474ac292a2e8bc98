//! Space maps: the reference counts of the blocks of a device.
//!
//! A map has four operations, [`count`], [`inc`], [`dec`] and [`alloc`], and two invariants:
//!
//! - `alloc` never returns a block whose count is above zero in the last commit, nor one that
//!   this transaction has used, even if the transaction has freed it again;
//! - at each commit, the counts equal the references that a walk from the superblock finds.
//!
//! On the device a map consists of *bitmaps* with two bits per block, an *index* of the bitmaps,
//! and a btree of the counts that do not fit in two bits. `Counts` stores these for every kind of
//! index: one block for the map of the metadata device itself ([`metadata`]), a btree for the map
//! of any other device ([`DiskSpaceMap`]).
//!
//! Within a transaction the changes are kept in memory, in a `Ledger`, and are written when it
//! commits. A lookup reads the ledger first and then the counts of the last commit. This also
//! ends the recursion of a map that counts its own blocks: see [`metadata`].
//!
//! [`count`]: DiskSpaceMap::count
//! [`inc`]: DiskSpaceMap::inc
//! [`dec`]: DiskSpaceMap::dec
//! [`alloc`]: DiskSpaceMap::alloc

mod core;
mod counts;
mod damage;
mod disk;
mod ledger;
pub mod metadata;
pub mod walk;

pub use core::CoreSpaceMap;
pub use damage::SpaceMapDamage;
pub use disk::DiskSpaceMap;
