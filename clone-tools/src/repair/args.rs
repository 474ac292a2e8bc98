//! The command line of `clone_repair`.

use std::path::PathBuf;

use clap::Parser;
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::parse_sectors;

use crate::common::args::{Lost, SIZES, metadata_to_read, metadata_to_write, parse_region_size};
use crate::common::exit;

/// Recover damaged metadata of a dm-clone target, and write it as new, whole metadata.
///
/// INPUT is only read. Where the last commit on it is damaged, older blocks that it still holds are
/// searched. Regions whose state remains unknown are lost: nothing is written until --lost decides
/// them. Then OUTPUT is written, superblock last, and read back: after exit code 0 it holds
/// metadata that a kernel opens.
#[derive(Debug, Parser)]
#[command(name = "clone_repair", version, after_help = after_help())]
pub struct RepairArgs {
    /// The damaged metadata: a block device or a file.
    #[arg(short, long, value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,

    /// The output: a block device or a file, whose size does not change, or a new file. Not INPUT.
    #[arg(short, long, value_name = "OUTPUT", value_parser = metadata_to_write())]
    pub output: PathBuf,

    /// The size of OUTPUT, if it is a new file. Default: the size that clone_metadata_size prints.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub metadata_size: Option<Sectors>,

    /// The region size of the clone, if its superblock is lost; with --target-size. In the clone's
    /// table line it comes after the three devices.
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size, requires = "target_size")]
    pub region_size: Option<RegionSize>,

    /// The size of the clone, if its superblock is lost; with --region-size. In the clone's
    /// table line it is the second number.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors, requires = "region_size")]
    pub target_size: Option<Sectors>,

    /// The state to give to regions whose state is unknown. Both choices can lose data; you have to
    /// decide.
    #[arg(long, value_enum, default_value = "fail")]
    pub lost: Lost,

    /// The source of the clone, to decide lost regions by their content; with --destination. A
    /// region that is equal on both counts as hydrated: both answers are right then. If a sector on
    /// the destination is neither zero nor equal to the source, the region was written, and counts
    /// as hydrated. All other regions stay lost, and --lost decides them: they are zero on the
    /// destination only, or look half copied. Use this only if the destination was all zero when
    /// the clone began: old data on it looks like a write.
    #[arg(long, value_name = "DEV", requires = "destination", value_parser = metadata_to_read())]
    pub source: Option<PathBuf>,

    /// The destination of the clone; with --source.
    #[arg(long, value_name = "DEV", requires = "source", value_parser = metadata_to_read())]
    pub destination: Option<PathBuf>,

    /// Accept --source as the original one, even if INPUT.source.json records another. If it holds
    /// other data, the decisions by content are wrong.
    #[arg(long, requires = "source")]
    pub repin: bool,

    /// Print one JSON document on stdout if INPUT can be read, even if the repair fails, and
    /// nothing else there; stderr holds only the reason for a failure. Its "ok" is true exactly
    /// when the exit code is 0.
    #[arg(long)]
    pub json: bool,

    /// Print nothing if the exit code is 0 and nothing was lost; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem, every recovered range, every lost range and every bitset that was
    /// examined.
    #[arg(short, long)]
    pub verbose: bool,
}

fn after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nExamples:\n  clone_repair -i damaged.img -o repaired.img\n  \
         clone_repair --lost unhydrated -i damaged.img -o /dev/vg/new-meta",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::RepairArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        RepairArgs::command().debug_assert();
    }
}
