//! What the tests across the workspace share.

pub mod fixtures;
pub mod log_writes;
