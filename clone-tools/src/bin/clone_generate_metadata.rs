//! `clone_generate_metadata`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::devtools::generate_metadata;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), generate_metadata::run)
}
