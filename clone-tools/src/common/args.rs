//! Arguments that several programs take.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clone_core::geometry::RegionSize;
use clone_core::size::parse_sectors;

use crate::common::paths::is_dash;

/// The description of sizes in the help.
pub const SIZES: &str = "\
Sizes: a plain number counts sectors of 512 bytes, as in the kernel's table lines. With a unit it
is exact: 16s, 4k, 64KiB, 100M, 8T (powers of 1024), 512kB, 2GB (powers of 1000).";

/// The treatment of regions whose state cannot be recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lost {
    /// List them and write nothing.
    Fail,
    /// They are copied from the source again. Writes to them since the clone began are lost.
    Unhydrated,
    /// They are used as they are on the destination. Regions that had not been copied yet lose the
    /// data of the source, and show old data of the destination instead.
    Hydrated,
}

/// Parses the path of metadata to read. `-` is refused, since metadata needs random access.
pub fn metadata_to_read() -> impl TypedValueParser<Value = PathBuf> {
    path_but_dash("metadata cannot be read from a pipe; ./- names a file")
}

/// Parses the path of metadata to write. `-` is refused, since metadata needs random access.
pub fn metadata_to_write() -> impl TypedValueParser<Value = PathBuf> {
    path_but_dash("metadata cannot go to stdout; ./- names a file")
}

/// Returns a parser of paths that rejects `-` with `refusal`.
pub fn path_but_dash(refusal: &'static str) -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(
        move |path| {
            if is_dash(&path) { Err(refusal) } else { Ok(path) }
        },
    )
}

/// Parses a region size.
///
/// # Errors
/// The text is not a size, or the size is not a valid region size.
pub fn parse_region_size(text: &str) -> Result<RegionSize, String> {
    let sectors = parse_sectors(text).map_err(|error| error.to_string())?;
    RegionSize::new(sectors).map_err(|error| error.to_string())
}
