//! The command-line tools for dm-clone metadata, and what `clone-daemon` shares with them.
//!
//! Each tool is a binary of a few lines in `src/bin`. It hands its arguments to the module of its
//! name, which turns them into devices and options for one call into [`clone_core`], and the result
//! into a report and an [exit code](common::exit).
//!
//! - [`common`]: shared by all programs. This is all that `clone-daemon` uses; everything else is
//!   behind the feature `tools`, which is on by default.
//! - [`check`], [`dump`], [`restore`], [`repair`], [`hydrate`], [`map`], [`metadata_size`],
//!   [`pack`]: the tools, each with its command line in `args`. [`repair::recovery`] also serves
//!   `clone_dump --repair`; [`pack::unpack`] is `clone_metadata_unpack`.
//! - [`formats`]: the formats of a dump.
//! - [`progress_bar`]: the progress of long work on a terminal.
//! - `report_json`: the parts that the `--json` documents of several tools share.
//! - `devtools`: tools to test with, behind the feature of that name.
//!
//! # Invariants
//!
//! 1. An input is opened for reading only. The exceptions are [`check`] with `--auto-repair`,
//!    [`hydrate`], and the tool that damages metadata.
//! 2. An output is not touched before all input has been read and validated.
//! 3. The memory for a document does not grow with its length.
//! 4. The result of every write and flush decides the exit code.

#[cfg(feature = "tools")]
pub mod check;
pub mod common;
#[cfg(feature = "devtools")]
pub mod devtools;
#[cfg(feature = "tools")]
pub mod dump;
#[cfg(feature = "tools")]
pub mod formats;
#[cfg(feature = "tools")]
pub mod hydrate;
#[cfg(feature = "tools")]
pub mod map;
#[cfg(feature = "tools")]
pub mod metadata_size;
#[cfg(feature = "tools")]
pub mod pack;
#[cfg(feature = "tools")]
pub mod progress_bar;
#[cfg(feature = "tools")]
pub mod repair;
#[cfg(feature = "tools")]
mod report_json;
#[cfg(feature = "tools")]
pub mod restore;
