//! `clone_hydrate`: completes or advances a clone offline.
//!
//! It opens the metadata, source and destination, checks or records the pin, and runs the engine of
//! [`clone_core`] until the clone is complete or a limit, a signal or a failure ends it. Then it
//! commits and reports. *Invariant:* the pin is stored before the first region is copied.

use std::time::Duration;

use anyhow::{Context, Result};
use clone_core::driver::Devices;
use clone_core::engine::Settings;
use clone_core::geometry::{Geometry, SECTOR_SIZE};
use persistent_data::device::FileDevice;

use self::args::{HydrateArgs, bytes};
use self::devices::{OpenedClone, check_distinct, check_limit, open, warnings};
use self::meter::Meter;
use self::report::Summary;
use self::session::{Plan, hydrate};
use self::to_read::{bytes_to_read, runs_to_copy};
use crate::common::exit::{Exit, Tool};
use crate::common::metadata_input::{open_clone, open_metadata_to_change};
use crate::common::output;
use crate::common::room;
use crate::common::signals::StopSignals;
use crate::common::trace_input::read_trace;
use crate::common::units::{Counted, human_bytes, in_units};

pub mod args;
mod devices;
mod meter;
mod report;
mod session;
mod to_read;

/// The minimum size of a copy in bytes, as in the engine.
const BATCH_MIN: u64 = 64 << 10;

/// Runs `clone_hydrate`.
///
/// # Errors
/// A device is unsuitable or cannot be opened, the source is not the pinned one, or hydration ended
/// before the clone was complete or the limit reached.
pub fn run(tool: &Tool, args: &HydrateArgs) -> Result<Exit> {
    check_distinct(args)?;
    let trace = args.prefetch.as_deref().map(read_trace).transpose()?;
    let device = open_metadata_to_change(&args.metadata)?;
    let metadata = open_clone(device, &args.metadata)?;
    let geometry = metadata.header().geometry;
    let before = metadata.nr_hydrated();
    let mut summary = Summary { args, geometry, before, outcome: None };
    if before == geometry.nr_regions() {
        tell(tool, &summary)?;
        return Ok(Exit::Success);
    }
    check_limit(args, &metadata)?;
    let opened = open(args, metadata)?;
    if !args.quiet {
        for warning in warnings(args, &opened) {
            tool.say(warning);
        }
    }
    let OpenedClone { devices, source, pin } = opened;
    // Stored before the first copy, so that hydrated regions always belong to the recorded source.
    if let Some((path, pin)) = pin {
        pin.store(&path)?;
    }
    keep_room(tool, args, &devices);

    let settings = settings(args, geometry);
    let to_read = if args.quiet { 0 } else { to_read(&devices) };
    if args.verbose {
        say_plan(tool, args, &settings, &devices, to_read);
    }
    let plan = Plan {
        settings,
        jobs: args.jobs,
        limit: args.limit.map(bytes),
        first: trace.map(|trace| trace.ranges().to_vec()).unwrap_or_default(),
    };
    let signals = StopSignals::catch().context("cannot wait for signals")?;
    let shown = to_read.min(plan.limit.unwrap_or(u64::MAX));
    let mut meter = Meter::new(tool, args.quiet, shown);
    let outcome = hydrate(
        devices,
        plan,
        || signals.received(),
        |now: Duration, progress| meter.show(now, progress),
    );
    meter.finish();
    let mut outcome = outcome?;
    outcome.check(&source);
    summary.outcome = Some(&outcome);
    tell(tool, &summary)?;
    Ok(Exit::Success)
}

/// Allocates the blocks of the metadata, so that commits succeed even if the destination fills the
/// same file system. Warns if that is not possible.
fn keep_room(tool: &Tool, args: &HydrateArgs, devices: &Devices<FileDevice>) {
    let room = room::allocate(devices.metadata.device(), &args.metadata);
    let warning =
        room.map_or_else(|error| Some(format!("{error:#}")), |it| it.warning(&args.metadata));
    if let Some(warning) = warning.filter(|_| !args.quiet) {
        tool.say(warning);
    }
}

/// Reports the outcome.
///
/// # Errors
/// The reason why the exit code is not 0.
fn tell(tool: &Tool, summary: &Summary<'_>) -> Result<()> {
    let args = summary.args;
    let error = summary.error();
    if error.is_some() {
        summary.list_bad(tool);
    }
    let told = match (args.json, args.quiet) {
        (true, _) => output::say(|to| summary.write_json(to, error.as_ref())),
        (false, false) => output::say(|to| summary.write(to)),
        (false, true) => Ok(()),
    };
    error.map_or(told, Err)
}

fn settings(args: &HydrateArgs, geometry: Geometry) -> Settings {
    let rate = args.rate.map(bytes);
    // With a low rate, copies are small rather than rare.
    let most = rate.map_or(u64::MAX, |rate| (rate / 4).max(BATCH_MIN));
    // Data that goes through the page cache should still be in the processor's cache when written.
    let usual = if args.direct { 4 << 20 } else { 1 << 20 };
    let copy_bytes = 1 << args.batch.map_or(usual, bytes).min(most).ilog2();
    let region_bytes = geometry.region_size().sectors().0 * SECTOR_SIZE;
    let mut settings = Settings {
        hydration_rate: rate,
        max_failures: args.max_failures,
        copy_bytes,
        copies: args.jobs,
        ..Settings::default()
    };
    let batch = (copy_bytes / region_bytes).max(1);
    settings.options.hydration_batch_size = u32::try_from(batch).unwrap_or(u32::MAX);
    // The buffers already limit the copies in flight.
    settings.options.hydration_threshold = u32::MAX;
    settings
}

/// Returns the number of bytes to be read from the source, as far as the source knows its holes.
fn to_read(devices: &Devices<FileDevice>) -> u64 {
    let Devices { metadata, source, .. } = devices;
    let geometry = metadata.header().geometry;
    let region_bytes = geometry.region_size().sectors().0 * SECTOR_SIZE;
    let size_bytes = geometry.target_size().0 * SECTOR_SIZE;
    let left = geometry.nr_regions() - metadata.nr_hydrated();
    let total = left.saturating_mul(region_bytes).min(size_bytes);
    let wanted = runs_to_copy(metadata.hydrated_words(), region_bytes, size_bytes);
    bytes_to_read(&**source, wanted, total)
}

fn say_plan(
    tool: &Tool,
    args: &HydrateArgs,
    settings: &Settings,
    devices: &Devices<FileDevice>,
    to_read: u64,
) {
    let metadata = &devices.metadata;
    let geometry = metadata.header().geometry;
    tool.say(format_args!(
        "{}: {} of {} each, {} of them hydrated",
        args.metadata.display(),
        Counted(geometry.nr_regions(), "region"),
        in_units(geometry.region_size().sectors()),
        metadata.nr_hydrated()
    ));
    tool.say(format_args!(
        "{} to be read from {}, in batches of {}, {} at a time",
        human_bytes(to_read),
        args.source.display(),
        human_bytes(settings.copy_bytes),
        args.jobs
    ));
}
