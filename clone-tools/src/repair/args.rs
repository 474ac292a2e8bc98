//! The command line of `clone_repair`.

use std::path::PathBuf;

use clap::Parser;
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::parse_sectors;

use crate::common::args::{Lost, SIZES, metadata_to_read, metadata_to_write, parse_region_size};
use crate::common::exit;

/// Make whole metadata for a dm-clone target of what can be recovered of damaged metadata.
///
/// INPUT is only ever read. What its last commit does not tell any more is looked for in older
/// blocks that are left on it. Regions whose state is unknown even then are lost, and nothing is
/// written until --lost says what becomes of them. Then OUTPUT is written, superblock last, and
/// read back: after exit code 0 it holds metadata that a kernel opens.
#[derive(Debug, Parser)]
#[command(name = "clone_repair", version, after_help = after_help())]
pub struct RepairArgs {
    /// The damaged metadata: a block device or a file.
    #[arg(short, long, value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,

    /// Where the whole metadata goes: a block device or a file, as large as it is, or a file that
    /// is made. Not INPUT.
    #[arg(short, long, value_name = "OUTPUT", value_parser = metadata_to_write())]
    pub output: PathBuf,

    /// How large a file is made if OUTPUT does not exist. By default as large as
    /// clone_metadata_size says.
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

    /// What becomes of regions whose state cannot be found out. Either guess may lose data, so it
    /// is yours to make.
    #[arg(long, value_enum, default_value = "fail")]
    pub lost: Lost,

    /// The source of the clone, to decide by content about regions that are lost; with
    /// --destination. A region that is the same on both is taken as hydrated, for either answer is
    /// right then. One of which a sector on the destination is neither zero nor as on the source
    /// was written there, and is taken as hydrated. All others stay lost, for --lost to decide:
    /// zero on the destination only, or half copied by all that can be told. Use this only if the
    /// destination was all zero when the clone began: what an old disk held looks like a write.
    #[arg(long, value_name = "DEV", requires = "destination", value_parser = metadata_to_read())]
    pub source: Option<PathBuf>,

    /// The destination of the clone; with --source.
    #[arg(long, value_name = "DEV", requires = "source", value_parser = metadata_to_read())]
    pub destination: Option<PathBuf>,

    /// Take --source for the one that the clone was begun with, though INPUT.source.json says
    /// otherwise. If it holds other data, what is decided by content is wrong.
    #[arg(long, requires = "source")]
    pub repin: bool,

    /// Print one JSON document on stdout whenever INPUT can be read, whatever becomes of it, and
    /// nothing else there; on stderr nothing but why it failed. Its "ok" is true exactly when the
    /// exit code is 0.
    #[arg(long)]
    pub json: bool,

    /// Say nothing if the exit code is 0 and nothing was lost, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem, every find, every lost range and every bitset that was looked at.
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
