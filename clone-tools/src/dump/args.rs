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
    /// What clone_restore reads.
    Xml,
    /// What clone_restore --format json reads; ranges are half-open.
    Json,
    /// For people.
    Text,
    /// Raw: one bit a region, lowest bit first, set if it is hydrated, in whole bytes.
    Bitmap,
}

/// Dump the metadata of a dm-clone target: its sizes, and which regions are hydrated.
///
/// All of the metadata is checked first. If it is damaged nothing is written, unless --repair is
/// given.
#[derive(Debug, Parser)]
#[command(name = "clone_dump", version, after_help = dump_after_help())]
pub struct DumpArgs {
    /// The form of the dump.
    #[arg(short, long, value_enum, default_value = "xml")]
    pub format: DumpFormat,

    /// Dump what can be recovered of damaged metadata, as clone_repair does.
    #[arg(short, long)]
    pub repair: bool,

    /// What becomes of regions whose state cannot be found out. Either guess may lose data, so it
    /// is yours to make.
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

    /// Read the metadata of a running clone, past the page cache, until one whole consistent state
    /// has been seen. With --repair, older copies are not looked for then.
    #[arg(long)]
    pub live: bool,

    /// Write to FILE instead of stdout. A file is replaced when the dump is whole, and not before.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Say nothing beside the dump if the exit code is 0 and nothing was lost; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem and every lost range, and say how many regions are hydrated.
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
