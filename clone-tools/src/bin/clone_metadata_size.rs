//! `clone_metadata_size`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::metadata_size;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), metadata_size::run)
}
