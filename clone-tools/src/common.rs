//! Shared by all programs of the toolkit, `cloned` and `clonectl` included.
//!
//! - [`args`], [`exit`], [`output`], [`reporter`], [`progress`], [`signals`]: a program and those
//!   who call it.
//! - [`input`], [`small_file`], [`metadata_output`], [`room`]: files, and the errors they give.
//! - [`units`], [`throughput`]: sizes, counts and rates as people read them.
//! - [`pin`]: which source a clone was begun with, and whether a given one is still that.

pub mod args;
pub mod exit;
pub mod metadata_input;
pub mod metadata_output;
pub mod output;
pub mod paths;
pub mod pin;
pub mod reporter;
pub mod room;
pub mod signals;
pub mod small_file;
pub mod terminal;
pub mod text_form;
pub mod throughput;
pub mod trace_input;
pub mod units;
