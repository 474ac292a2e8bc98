//! `clone_map`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::map;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), map::run)
}
