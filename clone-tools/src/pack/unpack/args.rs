//! The command line of `clone_metadata_unpack`.

use std::path::PathBuf;

use clap::Parser;

use crate::common::exit;

/// Make a metadata device from a pack of clone_metadata_pack.
///
/// All of the pack is read and checked before OUTPUT is touched.
#[derive(Debug, Parser)]
#[command(name = "clone_metadata_unpack", version, after_help = unpack_after_help())]
pub struct UnpackArgs {
    /// The pack, - for stdin.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,

    /// The output: a file, which is created or replaced with the size of the original device; a
    /// block device that is at least as large; or - for stdout.
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: PathBuf,

    /// Print nothing if the exit code is 0; show no progress.
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print a summary of the result.
    #[arg(short, long)]
    pub verbose: bool,
}

fn unpack_after_help() -> String {
    format!(
        "{}\n\nExamples:\n  clone_metadata_unpack -i report.clonepack -o meta.bin\n  \
         clone_metadata_unpack -i report.clonepack -o meta.bin && clone_check meta.bin",
        exit::HELP
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::UnpackArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        UnpackArgs::command().debug_assert();
    }
}
