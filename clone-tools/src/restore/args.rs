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
    /// What clone_dump writes.
    Xml,
    /// What clone_dump --format json writes.
    Json,
}

/// The hydrated regions of metadata that is made without a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hydrated {
    /// Every region: the clone is complete, its source is not read any more.
    All,
    /// None: a fresh clone.
    None,
}

/// Make metadata for a dm-clone target from a dump, or fresh.
///
/// All of the input is read and checked before OUTPUT is touched. Then the superblock of OUTPUT is
/// wiped, and written last: if it is interrupted, OUTPUT is refused by all tools.
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

    /// Where the metadata goes: a block device or a file, as large as it is, or a file that is
    /// made.
    #[arg(short, long, value_name = "OUTPUT", value_parser = metadata_to_write())]
    pub output: PathBuf,

    /// The form of the dump.
    #[arg(short, long, value_enum, default_value = "xml", conflicts_with = "hydrated")]
    pub format: RestoreFormat,

    /// How large a file is made if OUTPUT does not exist. By default as large as
    /// clone_metadata_size says.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub metadata_size: Option<Sectors>,

    /// The region size, instead of the one in the dump. Refused if some regions in the dump are
    /// hydrated and others are not: regions are not converted.
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: Option<RegionSize>,

    /// The size of the clone, instead of the one in the dump. Refused if that cuts off hydrated
    /// regions, or if a hydrated one that was cut short at the end of the clone would grow.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub target_size: Option<Sectors>,

    /// Take no dump: the regions of a clone of the given sizes are all hydrated, or none.
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        requires = "region_size",
        requires = "target_size"
    )]
    pub hydrated: Option<Hydrated>,

    /// Say nothing if the exit code is 0, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what was made.
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
