//! Exports of clones: over NBD, as a file over FUSE, as a block device over ublk.
//!
//! A transport knows nothing of regions, and the engine nothing of transports: between them is a
//! [`volume`].

pub mod exporter;
pub mod fuse;
pub mod nbd;
pub mod stats;
#[cfg(feature = "ublk")]
pub mod ublk;
pub mod volume;
