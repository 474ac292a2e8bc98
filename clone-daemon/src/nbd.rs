//! The NBD protocol. [`wire`] holds the constants that both sides share, [`server`] exports
//! volumes, and [`client`] reads from other servers.
//!
//! Section names are those of `doc/proto.md` in the NetworkBlockDevice/nbd repository.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]

pub mod client;
pub mod server;
pub mod wire;
