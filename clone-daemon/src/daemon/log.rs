//! What is said of what happens: on stderr, which systemd takes to its journal.
//!
//! *Invariant:* who says something waits for nobody, and nothing comes of it if it cannot be
//! written: see [`queue`].

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

pub(crate) use self::queue::lost_lines;

/// How long lines may take to be written at the end.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The log, until this is dropped.
pub(super) struct Log {
    queue: Arc<Queue>,
}

impl Log {
    /// Waits until all lines are written, but not for long. Whether they are: if not, nobody reads
    /// stderr, and whoever writes to it waits.
    pub(super) fn flush(&self) -> bool {
        self.queue.flush(FLUSH_TIME)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Has everything said from now on, panics too.
///
/// # Errors
/// That the level is none, or that it is said already.
pub(super) fn start(args: &CommonArgs) -> Result<Log> {
    let filter = EnvFilter::try_new(&args.log_level).map_err(|error| {
        usage_error::<DaemonArgs>(format_args!("--log-level {:?}: {error}", args.log_level))
    })?;
    let queue = Queue::start().context("cannot begin to log")?;
    let lines = queue.clone();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || lines.line())
        // It would tell stderr, and panic if it cannot.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let started = match args.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        // The journal notes times itself.
        LogFormat::Text if env::var_os("JOURNAL_STREAM").is_some() => log.without_time().try_init(),
        LogFormat::Text => log.try_init(),
    };
    started.map_err(|error| anyhow!("cannot begin to log: {error}"))?;
    panic::set_hook(Box::new(log_panic));
    Ok(Log { queue })
}

/// In place of the hook of the standard library, which waits for whoever reads stderr.
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
