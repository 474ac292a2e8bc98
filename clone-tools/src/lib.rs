//! The library behind the command-line tools for dm-clone metadata.
//!
//! Each tool is a short binary in `src/bin` that passes its arguments to the module of the same
//! name. The module parses them, opens the devices, makes one call into [`clone_core`], and turns
//! the result into a report and an [exit code](exit).
//!
//! - [`args`]: the command lines. Parsing opens no file.
//! - [`check`], [`dump`], [`restore`], [`repair`], [`hydrate`], [`metadata_size`], [`map`],
//!   [`pack`], [`unpack`]: the tools.
//! - [`pace`]: the speed of a hydration, for `clone_hydrate` and for the daemon.
//! - [`recovery`]: recovery of damaged metadata, for `clone_repair` and `clone_dump --repair`.
//! - [`xml`], [`json`], [`text`], [`bitmap`]: the formats of a dump. Each writer is a
//!   [`Visitor`](clone_core::ir::Visitor); XML and JSON can be read back as a
//!   [`Document`](document::Document).
//! - [`pack_file`]: the file format of `clone_metadata_pack` and `clone_metadata_unpack`.
//! - [`pin`]: records the source of a clone and checks that it is unchanged; also for the daemon.
//! - `devtools`: tools for tests, behind the feature of the same name.
//! - [`input`], [`small_file`], [`output`], [`image_output`], [`metadata_output`]: opening,
//!   checking, reading and writing files.
//!
//! # Invariants
//!
//! 1. An input is opened read-only. The exceptions are [`check`] with `--auto-repair`, [`hydrate`],
//!    and the tool that damages metadata.
//! 2. An output is not changed before the whole input has been read and validated.
//! 3. The memory that a document takes does not grow with its length.
//! 4. The result of every write and flush counts for the exit code.

pub mod args;
pub mod bitmap;
pub mod check;
#[cfg(feature = "devtools")]
pub mod devtools;
pub mod document;
pub mod dump;
pub mod exit;
pub mod figures;
pub mod hydrate;
pub mod image_output;
pub mod input;
pub mod json;
pub mod map;
pub mod metadata_output;
pub mod metadata_size;
pub mod output;
pub mod pace;
pub mod pack;
pub mod pack_file;
pub mod pin;
pub mod progress;
pub mod recovery;
pub mod repair;
pub mod report;
pub mod restore;
pub mod room;
pub mod run_spool;
pub mod signals;
pub mod small_file;
pub mod source;
pub mod text;
pub mod unpack;
pub mod xml;
