//! Tools to test with: they make metadata with a past, and damage it.

pub mod args;
pub mod generate_damage;
pub mod generate_metadata;
