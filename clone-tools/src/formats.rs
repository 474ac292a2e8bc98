//! The formats of a dump: written by a [`Visitor`](clone_core::metadata::ir::Visitor) each; XML and
//! JSON are read back as a [`Document`](document::Document).

pub mod bitmap;
pub mod document;
pub mod document_input;
pub mod json;
pub mod run_spool;
pub mod text;
pub mod text_reader;
pub mod xml;
