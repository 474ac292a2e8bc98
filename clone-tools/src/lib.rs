//! What the command-line tools for dm-clone metadata are made of.
//!
//! Each tool is a binary of a few lines in `src/bin`, which hands its arguments to the module of
//! its name. There they become devices and options for one call into [`clone_core`], and what
//! comes back becomes a report and an [exit code](exit).
//!
//! - [`args`]: what can be said on the command line. Nothing is opened there.
//! - [`check`], [`dump`], [`restore`], [`repair`], [`hydrate`], [`metadata_size`], [`map`],
//!   [`pack`], [`unpack`]: the tools.
//! - [`pace`]: how fast hydration goes, for a tool and for the daemon's.
//! - [`recovery`]: what can be got back of damaged metadata, for two of them.
//! - [`xml`], [`json`], [`text`], [`bitmap`]: the forms of a dump. Each writer is a
//!   [`Visitor`](clone_core::metadata::ir::Visitor); XML and JSON are read back as a
//!   [`Document`](document::Document).
//! - [`pack_file`]: what `clone_metadata_pack` writes and `clone_metadata_unpack` reads.
//! - [`pin`]: which source a clone was begun with, and whether it is still that; for the daemon,
//!   too.
//! - `devtools`: tools to test with, behind the feature of that name.
//! - [`input`], [`small_file`], [`output`], [`image_output`], [`metadata_output`]: files, and what
//!   can be wrong with them.
//!
//! # Invariants
//!
//! 1. An input is opened for reading only, [`check`] with `--auto-repair` excepted, [`hydrate`],
//!    and the tool that damages metadata.
//! 2. An output is not touched before all input has been read and found right.
//! 3. What is kept of a document in memory does not grow with its length.
//! 4. Every result of a write or a flush decides the exit code.

pub mod check;
pub mod common;
#[cfg(feature = "devtools")]
pub mod devtools;
pub mod dump;
pub mod formats;
pub mod hydrate;
pub mod map;
pub mod metadata_size;
pub mod pack;
pub mod progress_bar;
pub mod repair;
pub mod restore;
