//! The command line of `clone_metadata_size`.

use clap::Parser;
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::parse_sectors;

use crate::common::args::{SIZES, parse_region_size};
use crate::common::exit;

/// Print the size that the metadata device of a dm-clone target needs, in sectors.
///
/// It has room for all metadata, and again for all blocks that one commit can change: these are
/// written elsewhere before the old ones are freed.
#[derive(Debug, Parser)]
#[command(name = "clone_metadata_size", version, after_help = metadata_size_after_help())]
pub struct MetadataSizeArgs {
    /// The region size: a power of two from 8 sectors (4 KiB) to 2097152 (1 GiB).
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: RegionSize,

    /// The size of the clone.
    #[arg(long, value_name = "SIZE", value_parser = parse_sectors)]
    pub target_size: Sectors,

    /// Print only the number, which is the default.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Explain the number on stderr.
    #[arg(short, long)]
    pub verbose: bool,
}

fn metadata_size_after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nExample:\n  \
         truncate -s \"$(($(clone_metadata_size --region-size 4k --target-size 8T) * 512))\" \
         meta.bin",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::MetadataSizeArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        MetadataSizeArgs::command().debug_assert();
    }
}
