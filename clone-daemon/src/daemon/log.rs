//! The log: lines on stderr, which systemd forwards to its journal.
//!
//! *Invariant:* a thread that logs never waits, and a line that cannot be written has no effect on
//! it: see [`queue`].

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clone_tools::common::exit::usage_error;
use tracing_subscriber::EnvFilter;

use self::queue::Queue;
use super::args::{CommonArgs, DaemonArgs, LogFormat};

mod queue;

/// Maximum time for writing the remaining lines at the end.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The log. Dropping it flushes it.
pub(super) struct Log {
    queue: Arc<Queue>,
}

impl Log {
    /// Waits a limited time until all lines are written, and returns whether they are. If not,
    /// stderr is not read, and writing to it would block.
    pub(super) fn flush(&self) -> bool {
        self.queue.flush(FLUSH_TIME)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts the log. From now on it receives all events and panics.
///
/// # Errors
/// `--log-level` is invalid, the log thread cannot be started, or a log is running already.
pub(super) fn start(args: &CommonArgs) -> Result<Log> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|error| {
        usage_error::<DaemonArgs>(format_args!("--log-level {:?}: {error}", args.log_level))
    })?;
    let queue = Queue::start().context("cannot start the log")?;
    let lines = queue.clone();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || lines.line())
        // Otherwise such errors go to stderr directly, and panic if that cannot be written.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let started = match args.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        // The journal adds timestamps itself.
        LogFormat::Text if env::var_os("JOURNAL_STREAM").is_some() => log.without_time().try_init(),
        LogFormat::Text => log.try_init(),
    };
    started.map_err(|error| anyhow!("cannot start the log: {error}"))?;
    panic::set_hook(Box::new(log_panic));
    Ok(Log { queue })
}

/// Replaces the panic hook of the standard library, which blocks while stderr is not read.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let (name, reason) = (thread.name().unwrap_or("?"), panic.payload_as_str().unwrap_or("?"));
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!("the thread {name} panicked at {place}: {reason}\n{backtrace}");
    } else {
        tracing::error!("the thread {name} panicked at {place}: {reason}");
    }
}
