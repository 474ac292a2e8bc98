//! The configuration of a clone: options and table lines, and the table of all clones.

pub mod clone_spec;
pub mod clonetab;
