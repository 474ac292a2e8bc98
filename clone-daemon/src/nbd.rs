//! The NBD protocol: [`wire`] is what both sides of it share, [`server`] serves volumes, [`client`]
//! reads from others.
//!
//! Section names are those of `doc/proto.md` in the NetworkBlockDevice/nbd repository.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]

pub mod client;
pub mod server;
pub mod wire;
