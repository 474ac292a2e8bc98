//! Recovery of damaged metadata, shared by `clone_repair` and `clone_dump --repair`.
//!
//! It calls [`recover`] and reports its results and failures through a [`Reporter`].

use std::fmt;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use clap::CommandFactory;
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use clone_core::metadata::damage::Damage;
use clone_core::metadata::ir::Header;
use clone_core::metadata::region_map::RegionMap;
use clone_core::metadata::superblock::Superblock;
use clone_core::repair::{CopyAge, Find, Fit, Origin, Recovery, RepairError, recover};
use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;

use self::candidates::list_candidates;
use self::fits::list_fits;
use crate::common::args::Lost;
use crate::common::exit::{Tool, usage_error};
use crate::common::reporter::{LISTED, Verbosity, list_damage, list_lost};
use crate::common::units::{Counted, in_units};
use crate::progress_bar::with_bar;

mod candidates;
mod fits;

/// Returns the sizes of the clone, if the command line gives both.
///
/// # Errors
/// A usage error if no clone can have these sizes.
pub fn known_sizes<Args: CommandFactory>(
    region_size: Option<RegionSize>,
    target_size: Option<Sectors>,
) -> Result<Option<Geometry>> {
    let (Some(region_size), Some(target_size)) = (region_size, target_size) else {
        return Ok(None);
    };
    Geometry::new(region_size, target_size).map(Some).map_err(usage_error::<Args>)
}

/// Recovers the states of all regions, as far as possible.
///
/// # Errors
/// [`RecoveryFailure`] if nothing can be recovered.
pub fn recover_from<D: ReadDevice>(
    device: &D,
    sizes: Option<Geometry>,
    quiet: bool,
) -> Result<Recovery, RecoveryFailure> {
    let recovered = with_bar("reading", quiet, |bar| recover(device, sizes, bar));
    recovered.map_err(|error| RecoveryFailure::new(error, device))
}

/// The reason why nothing could be recovered, and the facts that are known anyway.
#[derive(Debug)]
pub struct RecoveryFailure {
    /// The content of the superblock, if it is sound.
    pub header: Option<Header>,
    /// The damage of the superblock, if it is not sound.
    pub damage: Vec<Damage>,
    /// The sizes that fit the bitsets that were found, the best bitset first.
    pub fits: Vec<Fit>,
    /// The message for the user.
    message: String,
}

const TABLE_LINE: &str = "the table line of the clone has both: 0 TARGET_SIZE clone METADATA \
                          DESTINATION SOURCE REGION_SIZE";

impl RecoveryFailure {
    fn new<D: ReadDevice>(error: RepairError, device: &D) -> Self {
        let mut message = match &error {
            RepairError::SizesUnknown { .. } => format!(
                "the superblock is lost, and with it the sizes of the clone: give them with \
                 --region-size and --target-size; {TABLE_LINE}"
            ),
            RepairError::OtherSizes { found, wanted } => format!(
                "the superblock is sound, and says {}; --region-size and --target-size say {}. \
                 See whether this is the right device; without them the superblock is believed",
                sizes(found),
                sizes(wanted)
            ),
            RepairError::NoBitset { wanted, .. } => format!(
                "there is no bitset of {} here, which {} would make. Compare: {TABLE_LINE}",
                Counted(wanted.nr_regions(), "region"),
                sizes(wanted)
            ),
            error => error.to_string(),
        };
        let (header, error, fits) = match error {
            RepairError::SizesUnknown { error, fits } => (None, Some(error), fits),
            other => {
                let fits = match other {
                    RepairError::NoBitset { fits, .. } => fits,
                    _ => Vec::new(),
                };
                match Superblock::read(device) {
                    Ok(superblock) => (Some(superblock.header), None, fits),
                    Err(error) => (None, Some(error), fits),
                }
            }
        };
        if header.is_none() {
            message += match fits.is_empty() {
                true => ". Nothing that looks like the bitset of a clone was found",
                false => ". What fits the bitsets that were found is listed above",
            };
        }
        let damage = error.map(Damage::Superblock).into_iter().collect();
        Self { header, damage, fits, message }
    }

    /// Reports the damage and the sizes that fit.
    pub fn tell(&self, reporter: &Reporter<'_>) {
        reporter.damage(&self.damage);
        if !reporter.silent {
            list_fits(reporter, &self.fits);
        }
    }

    /// Returns the error message for `input`.
    pub fn error(&self, input: &Path) -> anyhow::Error {
        anyhow!("{}: {}", input.display(), self.message)
    }
}

fn sizes(geometry: &Geometry) -> String {
    format!(
        "regions of {} and a target of {}",
        in_units(geometry.region_size().sectors()),
        in_units(geometry.target_size())
    )
}

/// Reports the recovery of one input to people.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    /// The tool, whose name precedes each message.
    pub tool: &'a Tool,
    /// The metadata that the messages are about.
    pub input: &'a Path,
    /// The amount of messages.
    pub verbosity: Verbosity,
    /// True to suppress all messages, because a JSON document is printed instead.
    pub silent: bool,
}

impl Reporter<'_> {
    /// Writes a message about the input.
    pub fn say(&self, message: impl fmt::Display) {
        if !self.silent {
            self.tool.say(format_args!("{}: {message}", self.input.display()));
        }
    }

    /// Lists damage.
    pub fn damage(&self, damage: &[Damage]) {
        if !self.silent {
            list_damage(self.tool, self.input, damage, self.verbosity.listing());
        }
    }

    /// Reports what was recovered, and from where.
    pub fn recovery(&self, recovery: &Recovery) {
        if let Origin::Scan { root, is_newest } = recovery.origin {
            self.root(root, is_newest, recovery);
        }
        if !self.silent {
            list_candidates(self, &recovery.candidates);
        }
        self.finds(&recovery.finds);
    }

    fn root(&self, root: BlockNr, is_newest: bool, recovery: &Recovery) {
        let regions = &recovery.regions;
        let knows_any = nr_lost(regions) < regions.nr_regions();
        let is_taken = recovery.candidates.iter().any(|candidate| candidate.verdict.is_none());
        let newest = match (is_newest, knows_any) {
            (true, _) => ", and no newer one was lost",
            (false, true) => {
                ". A newer one may have been lost, so nothing is known of the regions that are not \
                 hydrated in it"
            }
            (false, false) if !is_taken && !recovery.candidates.is_empty() => {
                self.say(
                    "the roots of the bitset that were found by a scan contradict each other, so \
                     none was taken, and nothing is known of any region",
                );
                return;
            }
            (false, false) => {
                ". Newer ones may have been lost, and may have used its blocks for something \
                 else, so nothing is known of any region"
            }
        };
        self.say(format_args!(
            "the root of the bitset was found by a scan, in block {root}{newest}"
        ));
    }

    fn finds(&self, finds: &[Find]) {
        let listed = if self.verbosity == Verbosity::Verbose { usize::MAX } else { LISTED };
        for Find { regions, at, age } in finds.iter().take(listed) {
            let from = match age {
                CopyAge::Last => format!("block {at}, the last that was written for them"),
                _ => format!("an older copy in block {at}"),
            };
            let (begin, end) = (regions.start, regions.end);
            self.say(format_args!("recovered: regions {begin}..{end}: from {from}"));
        }
        let more = finds.len().saturating_sub(listed);
        if more > 0 {
            let more = Counted(more as u64, "more find");
            self.say(format_args!("and {more} (--verbose lists all)"));
        }
    }

    /// Lists the regions whose state is unknown.
    pub fn lost(&self, regions: &RegionMap) {
        if !self.silent {
            list_lost(self.tool, self.input, regions, self.verbosity);
        }
    }
}

/// Applies the user's choice to the regions whose state is unknown, and reports it. Returns `None`
/// if there are none, or else whether they count as hydrated. `written` is the verb for the
/// message, such as `dumped`.
///
/// # Errors
/// Regions are lost, and the choice is [`Lost::Fail`].
pub fn choose(
    reporter: &Reporter<'_>,
    regions: &RegionMap,
    choice: Lost,
    written: &str,
) -> Result<Option<bool>> {
    let lost = nr_lost(regions);
    if lost == 0 {
        return Ok(None);
    }
    let lost = Counted(lost, "region");
    let (hydrated, what) = match choice {
        Lost::Fail => bail!(
            "{}: the state of {lost} is unknown, so nothing was written; --lost unhydrated or \
             --lost hydrated decides it, and --help tells what either loses",
            reporter.input.display()
        ),
        Lost::Unhydrated => (false, "not hydrated: to be copied from the source again"),
        Lost::Hydrated => (true, "hydrated: to be taken as they are on the destination"),
    };
    reporter.say(format_args!("{lost} of unknown state {written} as {what}"));
    Ok(Some(hydrated))
}

/// Returns the number of regions whose state is unknown.
pub fn nr_lost(regions: &RegionMap) -> u64 {
    regions.lost().map(|range| range.end - range.start).sum()
}
