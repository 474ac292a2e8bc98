//! Damaged metadata: nothing is misread in silence, nothing panics, hangs or takes memory beyond
//! reason, and how bad each piece of damage is called is what a real kernel makes of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod flips;
mod random;
mod regressions;
mod tables;
mod whole_images;
