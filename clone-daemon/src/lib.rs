//! Clones in userspace: what the dm-clone target does, without it and without root, on the same
//! metadata.
//!
//! The clone itself is [`clone_core::driver`]'s; here is what is around it. A transport knows
//! nothing of regions, and the engine knows nothing of transports: between them is a [`volume`].
//!
//! - [`spec`], [`clonetab`]: what a clone is to be made of, as people say it.
//! - [`opening`]: its devices, looked at first and changed only then.
//! - [`host`]: the clones of a daemon.
//! - [`daemon`]: `cloned`, which serves them until somebody wants it to end.
//! - [`volume`]: a clone as those see it who serve it.
//! - [`figures`]: what is counted of it.
//! - [`fuse`]: a clone as a file.
//! - [`control`]: the socket on which clones are looked at and changed; [`ctl`]: `clonectl`, which
//!   does that.
//! - [`metrics`]: what Prometheus asks for.
//! - [`nbd`]: the NBD protocol, served and spoken to others.
//! - [`source`]: where data come from that are cloned.
//! - `ublk`, with the feature of that name: a clone as a block device.

pub mod config;
mod connection_server;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod export;
pub mod host;
pub mod metrics;
pub mod nbd_protocol;
pub mod source;
