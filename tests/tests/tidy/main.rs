//! Rules that the compiler does not enforce. Each failure says what to do.
//!
//! [`workspace`] finds and reads files, [`modules`] parses the crates and resolves the paths that
//! they name. All other modules are rules.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod circles;
mod documents;
mod layering;
mod modules;
mod options;
mod prose;
mod sources;
mod vocabulary;
mod workspace;
