//! Shared by all programs of the toolkit, `cloned` and `clonectl` included.
//!
//! - [`args`], [`exit`], [`output`], [`signals`], [`terminal`]: the command line, the exit code and
//!   the output of a program.
//! - [`reporter`]: reports on metadata to people.
//! - [`metadata_input`], [`metadata_output`], [`room`], [`small_file`], [`trace_input`], [`paths`],
//!   [`text_form`]: files and their errors.
//! - [`units`], [`throughput`]: sizes, counts and rates as text.
//! - [`pin`]: the record of the source of a clone.

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
