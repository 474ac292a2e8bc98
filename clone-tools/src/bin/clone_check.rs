//! `clone_check`: see its `--help`.

use std::process::ExitCode;

use clone_tools::check;
use clone_tools::common::exit;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), check::run)
}
