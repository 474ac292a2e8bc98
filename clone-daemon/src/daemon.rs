//! `cloned`: from the command line to clones that are served, until somebody wants it to end.

use std::sync::Arc;

use anyhow::Result;
use clone_tools::exit::{Exit, Tool, usage_error};
use clone_tools::output;

use self::args::{CommonArgs, DaemonArgs, DaemonCommand, RunArgs, ServeArgs};
use self::doors::Doors;
use self::watch::{Asked, Watch, say_ready, say_stopping};
use crate::host::{Host, Reloaded};
use crate::opening::Plan;

pub mod args;
#[cfg(feature = "ublk")]
mod disks;
mod doors;
mod exporters;
mod log;
mod watch;

/// Runs `cloned`.
///
/// # Errors
/// Why it could not start, or that something is not committed at the end.
pub fn run(_: &Tool, args: &DaemonArgs) -> Result<Exit> {
    match &args.command {
        DaemonCommand::Run(args) if args.dry_run => dry_run(args),
        DaemonCommand::Run(args) => run_one(args),
        DaemonCommand::Serve(args) => serve(args),
    }
}

/// Says what a start would do.
fn dry_run(args: &RunArgs) -> Result<Exit> {
    let spec = args.spec().map_err(usage_error::<DaemonArgs>)?;
    let plan = Plan::make(spec, &args.common.source.options())?;
    output::say(|to| write!(to, "{plan}"))?;
    Ok(Exit::Success)
}

fn run_one(args: &RunArgs) -> Result<Exit> {
    let spec = args.spec().map_err(usage_error::<DaemonArgs>)?;
    let host = Host::new(args.common.source.options(), None);
    serve_until_asked(&args.common, host, |host| {
        host.start(spec, None)?;
        Ok(())
    })
}

fn serve(args: &ServeArgs) -> Result<Exit> {
    let host = Host::new(args.common.source.options(), Some(args.clonetab.clone()));
    serve_until_asked(&args.common, host, |host| {
        tell(&host.reload()?);
        Ok(())
    })
}

/// Opens the doors, sets up clones by `begin`, and serves them until a signal ends it.
fn serve_until_asked(
    common: &CommonArgs,
    host: Host,
    begin: impl FnOnce(&Host) -> Result<()>,
) -> Result<Exit> {
    log::start(common)?;
    let watch = Watch::start(host.has_table())?;
    let host = Arc::new(host);
    // What cannot be listened at is told before anything is made.
    let doors = Doors::bind(common, &host)?;
    let served = begin(&host).and_then(|()| doors.open(&host));
    let served = served.map(|open| {
        say_ready(&host);
        while watch.wait(&host) == Asked::Reload {
            reload(&host);
        }
        say_stopping();
        open.close();
    });
    let stopped = host.stop();
    served.and(stopped).map(|()| Exit::Success)
}

fn reload(host: &Host) {
    match host.reload() {
        Ok(reloaded) => tell(&reloaded),
        Err(error) => tracing::error!("nothing was changed: {error}"),
    }
    say_ready(host);
}

fn tell(reloaded: &Reloaded) {
    let Reloaded { added, removed, changed, failed } = reloaded;
    for (name, why) in failed {
        tracing::error!(clone = name, "{why}");
    }
    for name in changed {
        tracing::warn!(
            clone = name,
            "its line has changed: it goes on as it was until it is removed and created again"
        );
    }
    let (added, removed, failed) = (added.len(), removed.len(), failed.len());
    tracing::info!("clones: {added} set up, {removed} taken down, {failed} failed");
}
