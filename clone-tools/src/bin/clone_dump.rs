//! `clone_dump`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::dump;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), dump::run)
}
