//! `clone_metadata_pack`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::pack;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), pack::run)
}
