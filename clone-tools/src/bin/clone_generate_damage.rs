//! `clone_generate_damage`: see its `--help`.

use std::process::ExitCode;

use clone_tools::common::exit;
use clone_tools::devtools::generate_damage;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), generate_damage::run)
}
