//! `clone_repair`: recovers damaged metadata and writes it as new, whole metadata.
//!
//! The steps: recover what INPUT holds, decide lost regions by content, apply `--lost` to the
//! rest, write OUTPUT with its pin, and read it back.

use std::borrow::Cow;

use anyhow::Result;
use clone_core::geometry::Sectors;
use clone_core::metadata::damage::Severity;
use clone_core::metadata::ir::Header;
use clone_core::metadata::region_map::RegionMap;
use clone_core::repair::content::Decided;
use clone_core::repair::{Origin, Recovery};

use self::args::RepairArgs;
use self::content::Devices;
use crate::common::exit::{Exit, Tool};
use crate::common::metadata_input::claim_metadata;
use crate::common::metadata_output::MetadataPlace;
use crate::common::output;
use crate::common::paths::check_distinct;
use crate::common::pin::{self, Carried, Placed};
use crate::common::reporter::{Reporter, Verbosity, count};
use crate::common::units::{Counted, Share, in_units};
use crate::repair::recovery::{
    RecoveryFailure, choose, known_sizes, nr_lost, recover_from, report_recovery,
};

pub mod args;
mod content;
mod fresh;
mod json;
pub mod recovery;

/// Runs `clone_repair`.
///
/// # Errors
/// A path is unusable, nothing can be recovered, the source is not the pinned one, regions are lost
/// and `--lost` is `fail`, or OUTPUT cannot be written or reads back differently.
pub fn run(tool: &Tool, args: &RepairArgs) -> Result<Exit> {
    let sizes = known_sizes::<RepairArgs>(args.region_size, args.target_size)?;
    check_distinct(&args.input, &args.output)?;
    let devices = Devices::open(args)?;
    // Held to the end: OUTPUT may be the same device in a way that only the kernel can detect.
    let device = claim_metadata(&args.input)?;

    let verbosity = Verbosity::of(args.quiet, args.verbose);
    let reporter = Reporter { tool, input: &args.input, verbosity, silent: args.json };
    let mut outcome = RepairOutcome {
        found: recover_from(&reporter, &device, sizes),
        by_content: None,
        by_choice: None,
        written: false,
    };
    let repaired = repair(&reporter, args, devices.as_ref(), &mut outcome);
    let reported = match args.json {
        true => output::say(|to| json::write(to, &outcome, repaired.is_ok())),
        false => Ok(()),
    };
    repaired.and(reported)?;
    Ok(Exit::Success)
}

/// The results of a repair so far.
struct RepairOutcome {
    /// The recovery, with the decisions by content, but without those by `--lost`.
    found: Result<Recovery, RecoveryFailure>,
    /// The decisions by the content of source and destination.
    by_content: Option<Decided>,
    /// The regions decided by `--lost`.
    by_choice: Option<ByChoice>,
    /// True once OUTPUT has been written and read back.
    written: bool,
}

impl RepairOutcome {
    /// Returns the number of hydrated regions after all decisions so far, if anything was
    /// recovered.
    fn hydrated(&self) -> Option<u64> {
        let known = self.found.as_ref().ok()?.regions.hydrated();
        let chosen = self.by_choice.filter(|choice| choice.hydrated);
        Some(known + chosen.map_or(0, |choice| choice.nr_regions))
    }
}

/// The lost regions that `--lost` set to one state.
#[derive(Clone, Copy, Debug)]
struct ByChoice {
    nr_regions: u64,
    hydrated: bool,
}

/// Decides the lost regions, and writes OUTPUT if none is left.
fn repair(
    reporter: &Reporter<'_>,
    args: &RepairArgs,
    devices: Option<&Devices<'_>>,
    outcome: &mut RepairOutcome,
) -> Result<()> {
    let recovery = match &mut outcome.found {
        Ok(recovery) => recovery,
        Err(failure) => {
            failure.report(reporter);
            return Err(failure.error(&args.input));
        }
    };
    if !reporter.is_quiet() {
        report_found(reporter, recovery);
        if fresh::is_fresh(recovery) {
            fresh::report(reporter, recovery);
        }
    }
    let place = MetadataPlace::find(&args.output, recovery.header.geometry, args.metadata_size)?;

    if let Some(devices) = devices.filter(|_| !recovery.regions.is_whole()) {
        let (regions, decided) = devices.decide(reporter, recovery)?;
        recovery.regions = regions;
        outcome.by_content = Some(decided);
    }
    // Possible losses are reported even with --quiet.
    let is_loss = !recovery.regions.is_whole();
    if reporter.is_quiet() && is_loss {
        report_found(reporter, recovery);
    }
    let is_reported = is_loss || !reporter.is_quiet();
    if let Some(decided) = outcome.by_content.as_ref().filter(|_| is_reported) {
        content::report(reporter, decided);
    }
    reporter.list_lost(&recovery.regions);
    outcome.by_choice = choose(reporter, &recovery.regions, args.lost, "written")?
        .map(|hydrated| ByChoice { nr_regions: nr_lost(&recovery.regions), hydrated });

    let settled = settled(&recovery.regions, outcome.by_choice);
    let pin = pin_of_output(args, devices)?;
    let size = write_output(reporter, args, place, &recovery.header, &settled, pin)?;
    outcome.written = true;
    if is_reported && !args.json {
        report_written(reporter.tool, args, &settled, size, outcome.by_choice);
    }
    Ok(())
}

/// Returns the regions with `choice` applied to those that are lost.
fn settled(regions: &RegionMap, choice: Option<ByChoice>) -> Cow<'_, RegionMap> {
    let mut settled = Cow::Borrowed(regions);
    if let Some(ByChoice { hydrated, .. }) = choice {
        settled.to_mut().settle_lost(hydrated);
    }
    settled
}

/// Writes OUTPUT with its pin, and reads it back. Returns its size.
fn write_output(
    reporter: &Reporter<'_>,
    args: &RepairArgs,
    place: MetadataPlace<'_>,
    header: &Header,
    regions: &RegionMap,
    pin: Option<Carried>,
) -> Result<Sectors> {
    // From here on OUTPUT changes.
    let output = place.open()?;
    if let Some(warning) = output.warning().filter(|_| !reporter.is_quiet()) {
        reporter.tool.say(warning);
    }
    // The pin comes before the superblock, so that whole metadata always has its pin.
    let placed = put(reporter, args, pin)?;
    reporter.with_bar("writing", |bar| output.write_map(*header, regions, bar))?;
    reporter.with_bar("verifying", |bar| output.verify(header, regions, bar))?;
    let size = output.size();
    output.keep()?;
    if let Some(placed) = placed {
        placed.keep();
    }
    Ok(size)
}

fn report_written(
    tool: &Tool,
    args: &RepairArgs,
    regions: &RegionMap,
    size: Sectors,
    by_choice: Option<ByChoice>,
) {
    let (part, whole) = (regions.hydrated(), regions.nr_regions());
    tool.say(format_args!(
        "{}: {part} of {whole} regions hydrated ({}), in metadata of {}; {}",
        args.output.display(),
        Share { part, whole },
        in_units(size),
        lost_in_words(by_choice)
    ));
}

/// Returns the pin for OUTPUT: a new one if the source is given and not pinned yet, or else the pin
/// of INPUT.
fn pin_of_output(args: &RepairArgs, devices: Option<&Devices<'_>>) -> Result<Option<Carried>> {
    match devices.and_then(|devices| devices.new_pin.as_ref()) {
        Some(pin) => Ok(Some(Carried::new(pin)?)),
        None => Ok(Carried::from_beside(&args.input)?),
    }
}

/// Writes a pin next to OUTPUT, if OUTPUT has a place for one.
fn put(reporter: &Reporter<'_>, args: &RepairArgs, pin: Option<Carried>) -> Result<Option<Placed>> {
    let Some(pin) = pin else { return Ok(None) };
    let Some(path) = pin::place(&args.output) else {
        if !reporter.is_quiet() {
            reporter.say(pin::no_place(&args.output));
        }
        return Ok(None);
    };
    Ok(Some(pin.put(&path)?))
}

/// Reports what was found, before any decision.
fn report_found(reporter: &Reporter<'_>, recovery: &Recovery) {
    if recovery.damage.is_empty() {
        reporter.say("it has no damage, and is copied as it is");
    }
    reporter.list_damage(&recovery.damage);
    if recovery.origin == Origin::Superblock && count(&recovery.damage, Severity::Fatal) > 0 {
        reporter.say("the root of the bitset was found where the superblock says");
    }
    report_recovery(reporter, recovery);
}

fn lost_in_words(by_choice: Option<ByChoice>) -> String {
    match by_choice {
        None => "nothing was lost".into(),
        Some(ByChoice { nr_regions, hydrated }) => {
            let what = if hydrated { "hydrated" } else { "not hydrated" };
            let lost = Counted(nr_regions, "region");
            format!("the state of {lost} was lost, and --lost made it {what}")
        }
    }
}
