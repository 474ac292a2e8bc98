//! Repair of damaged metadata: no region is reported as hydrated that was not, each hydrated region
//! is reported as hydrated or lost, and everything that the damage did not touch is recovered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod content;
mod hits;
mod images;
mod interrupted;
mod matrix;
mod random;
mod superblock;
