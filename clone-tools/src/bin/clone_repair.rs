//! `clone_repair`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::repair;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), repair::run)
}
