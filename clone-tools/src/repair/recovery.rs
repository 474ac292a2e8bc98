//! Recovery of damaged metadata, shared by `clone_repair` and `clone_dump --repair`.
//!
//! It calls [`recover`] and reports its results and failures through a [`Reporter`].

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
use crate::common::exit::usage_error;
use crate::common::reporter::{LISTED, Reporter};
use crate::common::units::{Counted, in_units};

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
    reporter: &Reporter<'_>,
    device: &D,
    sizes: Option<Geometry>,
) -> Result<Recovery, RecoveryFailure> {
    let recovered = reporter.with_bar("reading", |bar| recover(device, sizes, bar));
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
                "the superblock is sound, and has {}; --region-size and --target-size give {}. \
                 Check that this is the right device; without these options the superblock decides",
                sizes(found),
                sizes(wanted)
            ),
            RepairError::NoBitset { wanted, .. } => format!(
                "found no bitset of {}, as {} would need. Compare: {TABLE_LINE}",
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
                false => ". The sizes that fit the bitsets found are listed above",
            };
        }
        let damage = error.map(Damage::Superblock).into_iter().collect();
        Self { header, damage, fits, message }
    }

    /// Reports the damage and the sizes that fit.
    pub fn report(&self, reporter: &Reporter<'_>) {
        reporter.list_damage(&self.damage);
        list_fits(reporter, &self.fits);
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

/// Reports what was recovered, and from where.
pub fn report_recovery(reporter: &Reporter<'_>, recovery: &Recovery) {
    if let Origin::Scan { root, is_newest } = recovery.origin {
        report_root(reporter, root, is_newest, recovery);
    }
    list_candidates(reporter, &recovery.candidates);
    list_finds(reporter, &recovery.finds);
}

fn report_root(reporter: &Reporter<'_>, root: BlockNr, is_newest: bool, recovery: &Recovery) {
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
            reporter.say(
                "the roots of the bitset that were found by a scan contradict each other, so none \
                 was taken, and nothing is known of any region",
            );
            return;
        }
        (false, false) => {
            ". Newer ones may have been lost, and may have used its blocks for something else, so \
             nothing is known of any region"
        }
    };
    reporter
        .say(format_args!("the root of the bitset was found by a scan, in block {root}{newest}"));
}

fn list_finds(reporter: &Reporter<'_>, finds: &[Find]) {
    let listed = reporter.nr_listed(LISTED);
    for Find { regions, at, age } in finds.iter().take(listed) {
        let from = match age {
            CopyAge::Last => format!("block {at}, the last that was written for them"),
            _ => format!("an older copy in block {at}"),
        };
        let (begin, end) = (regions.start, regions.end);
        reporter.say(format_args!("recovered: regions {begin}..{end}: from {from}"));
    }
    let more = finds.len().saturating_sub(listed);
    if more > 0 {
        let more = Counted(more as u64, "more find");
        reporter.say(format_args!("and {more} (--verbose lists all)"));
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
             --lost hydrated decides it, and --help says what each can lose",
            reporter.input.display()
        ),
        Lost::Unhydrated => (false, "not hydrated: to be copied from the source again"),
        Lost::Hydrated => (true, "hydrated: to be used as they are on the destination"),
    };
    reporter.say(format_args!("{lost} of unknown state {written} as {what}"));
    Ok(Some(hydrated))
}

/// Returns the number of regions whose state is unknown.
pub fn nr_lost(regions: &RegionMap) -> u64 {
    regions.lost().map(|range| range.end - range.start).sum()
}
