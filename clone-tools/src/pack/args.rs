//! The command line of `clone_metadata_pack`.

use std::path::PathBuf;

use clap::Parser;

use crate::common::args::metadata_to_read;
use crate::common::exit;

/// Pack the metadata of a dm-clone target into a small file, for a bug report.
///
/// clone_metadata_unpack makes a device of it again that is the same bit for bit, damage included,
/// in every block that is in use, that has the checksum of metadata of any kind, or that such a
/// block refers to. Anything else, which was on the device before the metadata, becomes zeroes.
///
/// A pack holds no data of the clone: metadata says only which regions are hydrated.
#[derive(Debug, Parser)]
#[command(name = "clone_metadata_pack", version, after_help = pack_after_help())]
pub struct PackArgs {
    /// The metadata: a block device or a file.
    #[arg(short, long, value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,

    /// Where the pack goes, - for stdout. A file is replaced when the pack is whole, and not
    /// before.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Say nothing if the exit code is 0, and show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say how many blocks were kept and how many dropped.
    #[arg(short, long)]
    pub verbose: bool,
}

fn pack_after_help() -> String {
    format!(
        "{}\n\nBlocks that cannot be read are left out and listed on stderr; the pack is written, \
         and the\nexit code is 1.\n\nExample:\n  \
         clone_metadata_pack -i /dev/vg/clone-meta -o report.clonepack",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::PackArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        PackArgs::command().debug_assert();
    }
}
