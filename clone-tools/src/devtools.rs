//! Tools for tests: they generate used metadata, and damage it.

pub mod args;
pub mod generate_damage;
pub mod generate_metadata;
