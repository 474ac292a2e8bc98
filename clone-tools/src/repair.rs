//! `clone_repair`: recovers damaged metadata and writes it as new, whole metadata.
//!
//! The steps: recover what INPUT holds, decide lost regions by content, apply `--lost` to the
//! rest, write OUTPUT with its pin, and read it back.

use std::borrow::Cow;

use anyhow::Result;
use clone_core::metadata::damage::Severity;
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
use crate::common::reporter::{Verbosity, count};
use crate::common::units::{Counted, Share, in_units};
use crate::progress_bar::with_bar;
use crate::repair::recovery::{
    RecoveryFailure, Reporter, choose, known_sizes, nr_lost, recover_from,
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

    let mut outcome = Outcome {
        found: recover_from(&device, sizes, args.quiet),
        by_content: None,
        by_choice: None,
        hydrated: None,
        written: false,
    };
    let repaired = repair(tool, args, devices.as_ref(), &mut outcome);
    let told = match args.json {
        true => output::say(|to| json::write(to, &outcome, repaired.is_ok())),
        false => Ok(()),
    };
    repaired.and(told)?;
    Ok(Exit::Success)
}

/// The results of a repair so far.
struct Outcome {
    /// The recovery, before `--lost` is applied.
    found: Result<Recovery, RecoveryFailure>,
    /// The decisions by the content of source and destination.
    by_content: Option<Decided>,
    /// The regions decided by `--lost`.
    by_choice: Option<ByChoice>,
    /// The number of hydrated regions in OUTPUT, as far as it is known.
    hydrated: Option<u64>,
    /// True once OUTPUT has been written and read back.
    written: bool,
}

/// The lost regions that `--lost` set to one state.
#[derive(Clone, Copy, Debug)]
struct ByChoice {
    nr_regions: u64,
    hydrated: bool,
}

fn repair(
    tool: &Tool,
    args: &RepairArgs,
    devices: Option<&Devices<'_>>,
    outcome: &mut Outcome,
) -> Result<()> {
    let verbosity = Verbosity::of(args.quiet, args.verbose);
    let reporter = Reporter { tool, input: &args.input, verbosity, silent: args.json };
    let recovery = match &mut outcome.found {
        Ok(recovery) => recovery,
        Err(failure) => {
            failure.tell(&reporter);
            return Err(failure.error(&args.input));
        }
    };
    if verbosity != Verbosity::Quiet {
        report_found(&reporter, recovery);
        if fresh::is_fresh(recovery) {
            fresh::tell(&reporter, recovery);
        }
    }
    outcome.hydrated = Some(recovery.regions.hydrated());
    let place = MetadataPlace::find(&args.output, recovery.header.geometry, args.metadata_size)?;

    if let Some(devices) = devices.filter(|_| !recovery.regions.is_whole()) {
        outcome.by_content = Some(devices.decide(recovery, args.quiet)?);
    }
    let regions = &recovery.regions;
    outcome.hydrated = Some(regions.hydrated());
    // Possible losses are reported even with --quiet.
    let is_loss = !regions.is_whole();
    if verbosity == Verbosity::Quiet && is_loss {
        report_found(&reporter, recovery);
    }
    if let Some(decided) =
        outcome.by_content.as_ref().filter(|_| verbosity != Verbosity::Quiet || is_loss)
    {
        content::tell(&reporter, decided);
    }
    reporter.lost(regions);
    let choice = choose(&reporter, regions, args.lost, "written")?;
    let mut settled = Cow::Borrowed(regions);
    if let Some(hydrated) = choice {
        settled.to_mut().settle_lost(hydrated);
        outcome.by_choice = Some(ByChoice { nr_regions: nr_lost(regions), hydrated });
    }
    outcome.hydrated = Some(settled.hydrated());

    let carried = carried(args, devices)?;
    // From here on OUTPUT changes.
    let output = place.open()?;
    if let Some(warning) = output.warning().filter(|_| verbosity != Verbosity::Quiet) {
        tool.say(warning);
    }
    // The pin comes before the superblock, so that whole metadata always has its pin.
    let placed = put(&reporter, args, carried)?;
    with_bar("writing", args.quiet, |bar| output.write_map(recovery.header, &settled, bar))?;
    with_bar("verifying", args.quiet, |bar| output.verify(&recovery.header, &settled, bar))?;
    let size = output.size();
    output.keep()?;
    if let Some(placed) = placed {
        placed.keep();
    }
    outcome.written = true;

    if !args.json && (verbosity != Verbosity::Quiet || is_loss) {
        let (part, whole) = (settled.hydrated(), settled.nr_regions());
        let share = Share { part, whole };
        tool.say(format_args!(
            "{}: {part} of {whole} regions hydrated ({share}), in metadata of {}; {}",
            args.output.display(),
            in_units(size),
            lost_in_words(outcome.by_choice)
        ));
    }
    Ok(())
}

/// Returns the pin for OUTPUT: a new one if the source is given and not pinned yet, or else the pin
/// of INPUT.
fn carried(args: &RepairArgs, devices: Option<&Devices<'_>>) -> Result<Option<Carried>> {
    match devices.and_then(|devices| devices.new_pin.as_ref()) {
        Some(pin) => Ok(Some(Carried::new(pin)?)),
        None => Ok(Carried::from_beside(&args.input)?),
    }
}

/// Writes a pin next to OUTPUT, if OUTPUT has a place for one.
fn put(reporter: &Reporter<'_>, args: &RepairArgs, pin: Option<Carried>) -> Result<Option<Placed>> {
    let Some(pin) = pin else { return Ok(None) };
    let Some(path) = pin::place(&args.output) else {
        if reporter.verbosity != Verbosity::Quiet {
            reporter.say(pin::no_place(&args.output));
        }
        return Ok(None);
    };
    Ok(Some(pin.put(&path)?))
}

/// Reports what was found, before any decision.
fn report_found(reporter: &Reporter<'_>, recovery: &Recovery) {
    if recovery.damage.is_empty() {
        reporter.say("nothing is wrong with it, so it is copied");
    }
    reporter.damage(&recovery.damage);
    if recovery.origin == Origin::Superblock && count(&recovery.damage, Severity::Fatal) > 0 {
        reporter.say("the root of the bitset was found where the superblock says");
    }
    reporter.recovery(recovery);
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
