//! The command line of `clone_metadata_pack`.

use std::path::PathBuf;

use clap::Parser;

use crate::common::args::metadata_to_read;
use crate::common::exit;

/// Pack the metadata of a dm-clone target into a small file, for a bug report.
///
/// clone_metadata_unpack makes a device from it again. A block is the same bit for bit, damage
/// included, if it is in use, has the checksum of any kind of metadata, or is referred to by such a
/// block. All other blocks, which are older than the metadata, become zeroes.
///
/// A pack holds no data of the clone: metadata says only which regions are hydrated.
#[derive(Debug, Parser)]
#[command(name = "clone_metadata_pack", version, after_help = pack_after_help())]
pub struct PackArgs {
    /// The metadata: a block device or a file.
    #[arg(short, long, value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,

    /// The output, - for stdout. A file is replaced only when the pack is complete.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Print nothing if the exit code is 0; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print the numbers of kept and dropped blocks.
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
