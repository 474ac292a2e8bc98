//! `cloned`: runs clones from the command line until a signal stops it.
//!
//! It binds the listeners, starts the clones of a [`Host`], serves them, and stops everything in
//! order when a signal arrives.

use std::sync::Arc;

use anyhow::Result;
use clone_tools::common::exit::{Exit, Tool, usage_error};
use clone_tools::common::output;

use self::args::{CommonArgs, DaemonArgs, DaemonCommand, RunArgs, ServeArgs};
use self::listeners::Listeners;
use self::signals::{SignalRequest, TaskEnd, Watch, say_ready, say_stopping};
use crate::host::setup::Plan;
use crate::host::{Host, Reloaded};

pub mod args;
mod listeners;
mod log;
mod notify;
mod signals;

/// Runs `cloned`.
///
/// # Errors
/// The arguments are invalid, the daemon cannot start, or not everything is committed at the end.
pub fn run(_: &Tool, args: &DaemonArgs) -> Result<Exit> {
    match &args.command {
        DaemonCommand::Run(args) if args.dry_run => dry_run(args),
        DaemonCommand::Run(args) => run_one(args),
        DaemonCommand::Serve(args) => serve(args),
    }
}

/// Prints what a start would do.
fn dry_run(args: &RunArgs) -> Result<Exit> {
    let spec = args.spec().map_err(usage_error::<DaemonArgs>)?;
    Listeners::check(&args.common, &spec.name)?;
    let plan = Plan::make(spec, &args.common.source.options())?;
    output::say(|to| write!(to, "{plan}"))?;
    Ok(Exit::Success)
}

fn run_one(args: &RunArgs) -> Result<Exit> {
    let spec = args.spec().map_err(usage_error::<DaemonArgs>)?;
    let host = Host::new(args.common.source.options(), None);
    serve_until_signal(&args.common, host, move |host| {
        host.start(spec, None)?;
        Ok(())
    })
}

fn serve(args: &ServeArgs) -> Result<Exit> {
    let host = Host::new(args.common.source.options(), Some(args.clonetab.clone()));
    serve_until_signal(&args.common, host, |host| {
        log_reloaded(&host.reload()?);
        Ok(())
    })
}

/// Binds the listeners, sets up clones with `begin`, and serves them until a signal stops the
/// daemon.
fn serve_until_signal(
    common: &CommonArgs,
    host: Host,
    begin: impl FnOnce(&Host) -> Result<()> + Send + 'static,
) -> Result<Exit> {
    let log = log::start(common)?;
    let served = Watch::start(host.has_table())
        .and_then(|watch| serve_watched(common, &Arc::new(host), &watch, begin));
    let is_written = log.flush();
    match served {
        Ok(()) => Ok(Exit::Success),
        // Printing the error would block until stderr is read.
        Err(_) if !is_written => Ok(Exit::Failure),
        Err(error) => Err(error),
    }
}

fn serve_watched(
    common: &CommonArgs,
    host: &Arc<Host>,
    watch: &Watch,
    begin: impl FnOnce(&Host) -> Result<()> + Send + 'static,
) -> Result<()> {
    // Addresses that cannot be bound are reported before anything is created.
    let listeners = Listeners::bind(common, host)?;
    let begun = match watch.run_task(host, begin) {
        Ok(TaskEnd::Done(begun)) => begun,
        Ok(TaskEnd::Stop) => {
            say_stopping();
            return host.stop();
        }
        Err(error) => Err(error),
    };
    let open = match begun.and_then(|()| listeners.open(host)) {
        Ok(open) => open,
        Err(error) => {
            // The failed start is the error to report.
            let _ = host.stop();
            return Err(error);
        }
    };
    say_ready(host);
    while watch.wait(host) == SignalRequest::Reload {
        match watch.run_task(host, reload) {
            Ok(TaskEnd::Done(())) => {}
            Ok(TaskEnd::Stop) => break,
            Err(error) => tracing::error!("the table may not have been read: {error:#}"),
        }
        say_ready(host);
    }
    say_stopping();
    // The time limit of remote sources starts now, not when the last client is gone. Requests on
    // the control socket stop waiting for clones.
    host.begin_stop();
    let control = open.close();
    let stopped = host.stop();
    if let Some(control) = control {
        control.stop();
    }
    stopped
}

fn reload(host: &Host) {
    match host.reload() {
        Ok(reloaded) => log_reloaded(&reloaded),
        Err(error) => tracing::error!("nothing was changed: {error}"),
    }
}

fn log_reloaded(reloaded: &Reloaded) {
    let Reloaded { added, removed, changed, failed } = reloaded;
    for (name, why) in failed {
        tracing::error!(clone = name, "{why}");
    }
    for name in changed {
        tracing::warn!(
            clone = name,
            "its line has changed: it continues as it was until it is removed and created again"
        );
    }
    let (added, removed, failed) = (added.len(), removed.len(), failed.len());
    tracing::info!("clones: {added} set up, {removed} taken down, {failed} failed");
}
