//! Damaged metadata comes back: no region is called hydrated that was not, none that was is called
//! anything but hydrated or lost, and what no damage has touched is all there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod content;
mod hits;
mod images;
mod interrupted;
mod matrix;
mod random;
mod superblock;
