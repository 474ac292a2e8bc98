//! The command line of `clone_map`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::common::args::metadata_to_read;
use crate::common::exit;

/// When a picture in the terminal has colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// If stdout is a terminal, NO_COLOR is not set, and TERM is not dumb.
    Auto,
    /// Even if stdout is not a terminal.
    Always,
    /// No colour: the characters alone show the shades.
    Never,
}

/// Draw a map of the hydrated regions of a dm-clone target.
///
/// Each cell of the map stands for the same number of regions and shows how many of them are
/// hydrated. A cell is full or empty only if every region in it is hydrated, or none: a single
/// region that differs changes the cell, and a single region whose state cannot be read marks the
/// whole cell as lost.
#[derive(Debug, Parser)]
#[command(name = "clone_map", version, after_help = map_after_help())]
pub struct MapArgs {
    /// Read the metadata of a running clone, past the page cache, until one consistent state has
    /// been read.
    #[arg(long)]
    pub live: bool,

    /// Also draw an SVG picture. In a browser, the pointer shows the regions of a cell.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Also draw a PNG picture.
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,

    /// Maximum width of the map in the terminal, in characters. Default: the width of the terminal,
    /// or 80 without one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(20..=1000))]
    pub width: Option<u16>,

    /// When to use colour in the map in the terminal.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: Color,

    /// Draw nothing in the terminal if a picture goes to a file; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem and every lost range.
    #[arg(short, long)]
    pub verbose: bool,

    /// The metadata: a block device or a file.
    #[arg(value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,
}

fn map_after_help() -> String {
    format!(
        "{}\n\nDamaged metadata is drawn as far as it can be read, its lost ranges are listed on \
         stderr,\nand the exit code is 1.\n\nExamples:\n  clone_map --live /dev/vg/clone-meta\n  \
         clone_map -q --svg map.svg --png map.png /dev/vg/clone-meta",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::MapArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        MapArgs::command().debug_assert();
    }
}
