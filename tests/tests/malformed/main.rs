//! Damaged metadata: no silent misreads, no panics, no hangs, bounded memory, and severities that
//! match the behaviour of a real kernel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod flips;
mod random;
mod regressions;
mod tables;
mod whole_images;
