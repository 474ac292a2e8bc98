//! What is said of what happens: on stderr, which systemd takes to its journal.

use std::env;
use std::io::{self, IsTerminal};

use anyhow::{Result, anyhow};
use clone_tools::exit::usage_error;
use tracing_subscriber::EnvFilter;

use super::args::{CommonArgs, DaemonArgs, LogFormat};

/// Has everything said from now on.
///
/// # Errors
/// That the level is none, or that it is said already.
pub(super) fn start(args: &CommonArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|error| {
        usage_error::<DaemonArgs>(format_args!("--log-level {:?}: {error}", args.log_level))
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let started = match args.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        // The journal notes times itself.
        LogFormat::Text if env::var_os("JOURNAL_STREAM").is_some() => log.without_time().try_init(),
        LogFormat::Text => log.try_init(),
    };
    started.map_err(|error| anyhow!("cannot begin to log: {error}"))
}
