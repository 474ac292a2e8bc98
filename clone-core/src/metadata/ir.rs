//! The intermediate form of metadata, between the device and its dumps.

use crate::geometry::{Geometry, RegionRange};

/// Version of the metadata format. There is only one.
pub const METADATA_VERSION: u32 = 1;

/// The metadata of a clone, without its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The superblock's uuid, which the kernel ignores and leaves zero.
    pub uuid: [u8; 16],
    /// The sizes of the clone.
    pub geometry: Geometry,
}

/// Receives a dump: [`begin`](Self::begin) first, then every run, then [`end`](Self::end).
pub trait Visitor {
    /// Error of the visitor.
    type Error;

    /// Begins the dump. `hydrated` is the sum of the lengths of the runs that follow.
    fn begin(&mut self, header: &Header, hydrated: u64) -> Result<(), Self::Error>;

    /// Receives a run of hydrated regions, half-open. Runs ascend and are not adjacent.
    fn run(&mut self, regions: RegionRange) -> Result<(), Self::Error>;

    /// Ends the dump.
    fn end(&mut self) -> Result<(), Self::Error>;
}
