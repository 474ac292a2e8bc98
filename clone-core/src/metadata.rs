//! dm-clone metadata on its device: reading, checking, writing.
//!
//! `format` and `superblock` are the bytes of block 0. [`check`] reads all of the metadata into a
//! [`region_map`] and reports [`damage`]; [`live`] does so while a kernel writes. [`writer`] marks
//! regions as hydrated and commits, [`restore`] builds metadata anew, [`dump`] hands it out as an
//! [`ir`], and [`auto_repair`] corrects in place what no bit depends on.

pub use self::writer::{Metadata, MetadataError, Prepared};

pub mod auto_repair;
pub(crate) mod bits;
pub mod check;
pub mod damage;
pub mod dump;
pub mod format;
pub mod ir;
pub mod live;
pub mod metadata_size;
pub mod region_map;
pub mod restore;
pub mod superblock;
pub mod survey;
pub mod writer;
