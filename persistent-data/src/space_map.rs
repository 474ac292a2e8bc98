//! Space maps: how many references there are to each block of a device.
//!
//! A map is four verbs, [`count`], [`inc`], [`dec`] and [`alloc`], and two laws:
//!
//! - `alloc` never returns a block whose count is above zero in the last commit, nor one that
//!   this transaction has used, even if it has freed it again;
//! - at each commit, the counts equal the references that a walk from the superblock finds.
//!
//! On the device a map is made of *bitmaps* with two bits a block, an *index* of the bitmaps, and
//! a btree of those counts that two bits cannot hold. `Counts` keeps these, whatever the
//! index is: one block for the map of the metadata device itself ([`metadata`]), a btree for the
//! map of any other device ([`DiskSpaceMap`]).
//!
//! Within a transaction the changes are kept in memory, in a `Ledger`, and written
//! when it commits. Looking a count up reads the ledger first and the last commit's counts after
//! it. That is also what ends the recursion of a map that counts its own blocks: see
//! [`metadata`].
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
