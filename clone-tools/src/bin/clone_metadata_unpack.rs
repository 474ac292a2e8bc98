//! `clone_metadata_unpack`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::pack::unpack;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), unpack::run)
}
