//! The `clonectl` binary: see [`clone_daemon::ctl`].

use std::process::ExitCode;

use clone_daemon::ctl::{self, args::ClonectlArgs};
use clone_tools::common::exit;

fn main() -> ExitCode {
    exit::run(std::env::args_os(), |_, args: &ClonectlArgs| ctl::run(args))
}
