//! The command line of `clone_dump`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::parse_sectors;

use crate::common::args::{Lost, SIZES, metadata_to_read, parse_region_size};
use crate::common::exit;

/// The formats of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    /// The input of clone_restore.
    Xml,
    /// The input of clone_restore --format json; ranges are half-open.
    Json,
    /// For people.
    Text,
    /// Raw: one bit per region, lowest bit first, set if it is hydrated, in whole bytes.
    Bitmap,
}

/// Dump the metadata of a dm-clone target: its sizes and its hydrated regions.
///
/// All of the metadata is checked first. If it is damaged, nothing is written unless --repair is
/// given.
#[derive(Debug, Parser)]
#[command(name = "clone_dump", version, after_help = dump_after_help())]
pub struct DumpArgs {
    /// The format of the dump.
    #[arg(short, long, value_enum, default_value = "xml")]
    pub format: DumpFormat,

    /// Recover damaged metadata as clone_repair does, and dump the result.
    #[arg(short, long)]
    pub repair: bool,

    /// The state to give to regions whose state is unknown. Both choices can lose data; you have to
    /// decide.
    #[arg(long, value_enum, default_value = "fail", requires = "repair")]
    pub lost: Lost,

    /// The region size of the clone, if its superblock is lost; with --repair and --target-size.
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    #[arg(requires = "repair", requires = "target_size", conflicts_with = "live")]
    pub region_size: Option<RegionSize>,

    /// The size of the clone, if its superblock is lost; with --repair and --region-size.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    #[arg(requires = "repair", requires = "region_size", conflicts_with = "live")]
    pub target_size: Option<Sectors>,

    /// Read the metadata of a running clone, past the page cache, until one consistent state has
    /// been read. With --repair, older copies are then not searched.
    #[arg(long)]
    pub live: bool,

    /// Write to FILE instead of stdout. A file is replaced only when the dump is complete.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Print only the dump if the exit code is 0 and nothing was lost; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem and every lost range, and print the number of hydrated regions.
    #[arg(short, long)]
    pub verbose: bool,

    /// The metadata: a block device or a file.
    #[arg(value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,
}

fn dump_after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nExamples:\n  clone_dump /dev/vg/clone-meta > clone.xml\n  \
         clone_dump --format text /dev/vg/clone-meta | less",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::DumpArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        DumpArgs::command().debug_assert();
    }
}
