//! Userspace clones: the function of the Linux dm-clone target without the kernel and without root,
//! on the same metadata format.
//!
//! [`clone_core::driver`] runs the clone itself; this crate is everything around it. Transports
//! know nothing of regions, and the engine knows nothing of transports: a [`volume`] stands between
//! them.
//!
//! - [`spec`], [`clonetab`]: the description of a clone, from a command line or a table.
//! - [`opening`]: opens the devices of a clone. It checks everything first and only then changes
//!   anything.
//! - [`host`]: the clones of a daemon.
//! - [`daemon`]: `cloned`, which serves clones until a signal stops it.
//! - [`volume`]: the block-device view of a clone that all exporters share.
//! - [`figures`]: counters of a volume.
//! - [`fuse`]: serves a clone as a file.
//! - [`control`]: the socket that inspects and changes clones; [`ctl`]: `clonectl`, its client.
//! - [`metrics`]: the Prometheus endpoint.
//! - [`nbd`]: the NBD protocol, server and client.
//! - [`source`]: the backends that a clone copies from.
//! - `ublk`, with the feature of that name: serves a clone as a block device.

pub mod clonetab;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod figures;
pub mod fuse;
pub mod host;
mod listening;
pub mod metrics;
pub mod nbd;
pub mod opening;
pub mod source;
pub mod spec;
#[cfg(feature = "ublk")]
pub mod ublk;
pub mod volume;
