//! The `cloned` binary: see [`clone_daemon::daemon`] and its `--help`.

use std::process::ExitCode;

use clone_daemon::daemon;
use clone_tools::common::exit;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), daemon::run)
}
