//! `clone_restore`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::restore;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), restore::run)
}
