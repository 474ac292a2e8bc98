//! `clone_hydrate`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::hydrate;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), hydrate::run)
}
