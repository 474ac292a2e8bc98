//! `clone_dump`: see its `--help`.

use std::process::ExitCode;

use clone_tools::{dump, exit};

fn main() -> ExitCode {
    exit::run(std::env::args_os(), dump::run)
}
