//! What the command-line tools for dm-clone metadata are made of.
//!
//! - [`xml`], [`json`], [`text`], [`bitmap`]: the forms of a dump. Each writer is a
//!   [`Visitor`](clone_core::ir::Visitor); XML and JSON are read back as a
//!   [`Document`](document::Document).
//!
//! # Invariants
//!
//! 1. What is kept of a document in memory does not grow with its length.

pub mod bitmap;
pub mod document;
pub mod figures;
pub mod json;
pub mod run_spool;
pub mod source;
pub mod text;
pub mod xml;
