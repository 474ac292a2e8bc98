//! The command line of `clone_restore`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::parse_sectors;

use crate::common::args::{SIZES, metadata_to_write, parse_region_size};
use crate::common::exit;

/// The formats that metadata is restored from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RestoreFormat {
    /// The output of clone_dump.
    Xml,
    /// The output of clone_dump --format json.
    Json,
}

/// The hydrated regions of metadata that is made without a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hydrated {
    /// Every region: the clone is complete, and its source is no longer read.
    All,
    /// None: a fresh clone.
    None,
}

/// Write the metadata of a dm-clone target from a dump, or for a new clone.
///
/// All of the input is read and checked before OUTPUT is touched. Then the superblock of OUTPUT is
/// wiped first and written last: after an interruption, all tools refuse OUTPUT.
#[derive(Debug, Parser)]
#[command(name = "clone_restore", version, after_help = restore_after_help())]
pub struct RestoreArgs {
    /// The dump, - for stdin.
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "hydrated",
        conflicts_with = "hydrated"
    )]
    pub input: Option<PathBuf>,

    /// The output: a block device or a file, whose size does not change, or a new file.
    #[arg(short, long, value_name = "OUTPUT", value_parser = metadata_to_write())]
    pub output: PathBuf,

    /// The format of the dump.
    #[arg(short, long, value_enum, default_value = "xml", conflicts_with = "hydrated")]
    pub format: RestoreFormat,

    /// The size of OUTPUT, if it is a new file. Default: the size that clone_metadata_size prints.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub metadata_size: Option<Sectors>,

    /// The region size, instead of the one in the dump. Refused if some regions in the dump are
    /// hydrated and others are not: regions are not converted.
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: Option<RegionSize>,

    /// The size of the clone, instead of the one in the dump. Refused if that cuts off hydrated
    /// regions, or if a hydrated region that is shortened by the end of the clone would grow.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub target_size: Option<Sectors>,

    /// Read no dump: in a clone of the given sizes, all regions are hydrated or none.
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        requires = "region_size",
        requires = "target_size"
    )]
    pub hydrated: Option<Hydrated>,

    /// Print nothing if the exit code is 0; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print a summary of the result.
    #[arg(short, long)]
    pub verbose: bool,
}

fn restore_after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nExamples:\n  clone_dump old.bin | clone_restore -i - -o new.bin\n  \
         clone_restore --hydrated none --region-size 4k --target-size 8T -o /dev/vg/clone-meta",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::RestoreArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        RestoreArgs::command().debug_assert();
    }
}
