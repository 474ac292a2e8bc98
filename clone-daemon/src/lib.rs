//! Clones in userspace: the work of the dm-clone target, without the target and without root, on
//! the same metadata.
//!
//! [`clone_core::driver`] runs a clone; this crate is everything around it.
//!
//! - [`config`]: the specification of a clone: table lines, options, the clonetab.
//! - [`source`]: the backends that a clone copies from.
//! - [`host`]: the clones of a daemon; setting one up, and shutting it down.
//! - [`export`]: clones over NBD, FUSE and ublk. A transport knows nothing of regions, and the
//!   engine nothing of transports: between them is a [`volume`](export::volume).
//! - [`daemon`]: the program `cloned`: its command line, listeners, signals and log.
//! - [`control`]: the control socket; [`ctl`] is `clonectl`, its client.
//! - [`metrics`]: the endpoint for Prometheus.
//! - [`nbd_protocol`]: the constants of the NBD protocol, for exports and sources.

pub mod config;
mod connection_server;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod export;
pub mod host;
mod lost_lines;
pub mod metrics;
pub mod nbd_protocol;
pub mod source;
mod unix_socket;
