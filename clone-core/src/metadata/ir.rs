//! The form between metadata and whatever it is dumped to or restored from.

use crate::geometry::{Geometry, RegionRange};

/// The version of the metadata format: the only one that there is.
pub const METADATA_VERSION: u32 = 1;

/// What a clone's metadata says beside its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The superblock's uuid, which the kernel ignores and leaves zero.
    pub uuid: [u8; 16],
    /// The sizes of the clone.
    pub geometry: Geometry,
}

/// What receives a dump: first [`begin`](Self::begin), then every run, then [`end`](Self::end).
pub trait Visitor {
    /// Why the visitor cannot go on.
    type Error;

    /// `hydrated` is the sum of the lengths of the runs that follow.
    fn begin(&mut self, header: &Header, hydrated: u64) -> Result<(), Self::Error>;

    /// Hydrated regions. Runs ascend and do not touch each other.
    fn run(&mut self, regions: RegionRange) -> Result<(), Self::Error>;

    /// That was all.
    fn end(&mut self) -> Result<(), Self::Error>;
}
