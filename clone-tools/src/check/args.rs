//! The command line of `clone_check`.

use std::path::PathBuf;

use clap::Parser;

use crate::common::args::metadata_to_read;
use crate::common::exit;

/// Check the metadata of a dm-clone target.
///
/// Reads all of it, finds all problems, and reports the effect of each. Nothing is written unless
/// --auto-repair is given.
#[derive(Debug, Parser)]
#[command(name = "clone_check", version, after_help = check_after_help())]
pub struct CheckArgs {
    /// Check only the superblock: is this metadata, and of which clone?
    #[arg(long, visible_alias = "superblock-only")]
    pub super_block_only: bool,

    /// Do not check the reference counts of metadata blocks.
    #[arg(long)]
    pub skip_space_map: bool,

    /// Exit with 0 instead of 3 if no problem harms the kernel.
    #[arg(long)]
    pub ignore_non_fatal_errors: bool,

    /// Free leaked blocks and correct wrong free counts, in place and in one transaction. Nothing
    /// else is changed, and nothing at all if there is fatal damage. Exit with 0 if no fatal damage
    /// is left.
    #[arg(long, conflicts_with_all = ["super_block_only", "skip_space_map", "live"])]
    pub auto_repair: bool,

    /// Read the metadata of a running clone, past the page cache, until one consistent state has
    /// been read.
    #[arg(long)]
    pub live: bool,

    /// Print one JSON document on stdout if INPUT can be read, damaged or not, and nothing else
    /// there. Its "ok" is true exactly when the exit code is 0.
    #[arg(long)]
    pub json: bool,

    /// Print nothing if the exit code is 0; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// List every problem, even if many are alike.
    #[arg(short, long)]
    pub verbose: bool,

    /// The metadata: a block device or a file.
    #[arg(value_name = "INPUT", value_parser = metadata_to_read())]
    pub input: PathBuf,
}

fn check_after_help() -> String {
    format!(
        "{}\n\nExample:\n  clone_check /dev/vg/clone-meta || [ $? -eq 3 ] && echo usable",
        exit::CHECK_HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::CheckArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        CheckArgs::command().debug_assert();
    }
}
