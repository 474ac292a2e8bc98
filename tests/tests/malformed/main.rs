//! Damaged metadata: nothing is misread in silence, nothing panics, hangs or takes memory beyond
//! reason, and how bad each piece of damage is called is what a real kernel makes of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod array_block;
mod bounds;
mod flips;
mod large_counts;
mod node;
mod pointers;
mod random;
mod regressions;
mod space_map;
mod superblock;
mod table;
mod whole_images;
