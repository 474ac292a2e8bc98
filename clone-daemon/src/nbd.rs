//! The NBD protocol: [`wire`] is what both sides of it share.
//!
//! Section names are those of `doc/proto.md` in the NetworkBlockDevice/nbd repository.

pub mod wire;
