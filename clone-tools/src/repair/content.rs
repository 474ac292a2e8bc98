//! Decides lost regions by comparing the content of source and destination.
//!
//! `clone_repair` calls it between recovery and `--lost`. The rules are those of
//! [`clone_core::content`].

use std::path::Path;

use anyhow::{Context, Error, Result, bail};
use clone_core::block_io::{Access, FileSource};
use clone_core::metadata::region_map::RegionMap;
use clone_core::repair::Recovery;
use clone_core::repair::content::{Decided, Unreadable, decide};

use super::args::RepairArgs;
use crate::common::paths::{are_same, check_distinct};
use crate::common::pin::{self, LocalSource, Pin};
use crate::common::reporter::{LISTED, Reporter};
use crate::common::units::Counted;

/// The source and the destination of a clone, open for reading.
pub(super) struct Devices<'a> {
    source: (&'a Path, LocalSource),
    destination: (&'a Path, FileSource),
    /// The pin to write for the source, if it is not pinned yet.
    pub(super) new_pin: Option<Pin>,
}

impl<'a> Devices<'a> {
    /// Opens both devices, if the command line names them.
    pub(super) fn open(args: &'a RepairArgs) -> Result<Option<Self>> {
        let (Some(source), Some(destination)) = (&args.source, &args.destination) else {
            return Ok(None);
        };
        if are_same(source, destination) {
            bail!(
                "{} and {} are the same: the source and the destination of a clone are two devices",
                source.display(),
                destination.display()
            );
        }
        for device in [source, destination] {
            check_distinct(device, &args.output)?;
            if are_same(device, &args.input) {
                bail!("{} is the metadata: it holds no data of the clone", device.display());
            }
        }
        // Neither device is written. If the page cache holds stale destination data, fewer regions
        // can be decided, but none wrongly: a region that counted as hydrated then still does now.
        let place = pin::place(&args.input);
        let required = place.as_deref().filter(|_| !args.repin);
        // With another source, equal data would prove nothing, and different data would look like
        // writes.
        let (on_source, new_pin) = pin::open_local(source, Access::Buffered, required)
            .with_context(|| format!("cannot compare with the source {}", source.display()))?;
        let on_destination = FileSource::open(destination, Access::Buffered)?;
        let source = (source.as_path(), on_source);
        let destination = (destination.as_path(), on_destination);
        Ok(Some(Self { source, destination, new_pin }))
    }

    /// Decides the lost regions of `recovery` that the content can decide. Returns the regions with
    /// their new states, and the number of decisions.
    pub(super) fn decide(
        &self,
        reporter: &Reporter<'_>,
        recovery: &Recovery,
    ) -> Result<(RegionMap, Decided)> {
        let geometry = recovery.header.geometry;
        let (source, destination) = (&self.source.1, &self.destination.1);
        let mut regions = recovery.regions.clone();
        let decided = reporter
            .with_bar("comparing", |bar| decide(&mut regions, geometry, source, destination, bar));
        // Data read before a change of the source is as useless as data read after it.
        let decided = decided.map_err(Error::from);
        let decided = source.check().map_err(Error::from).and(decided);
        decided.map(|decided| (regions, decided)).with_context(|| {
            let (source, destination) = (self.source.0.display(), self.destination.0.display());
            format!("cannot compare {source} and {destination}")
        })
    }
}

/// Reports the number of regions decided by each rule.
pub(super) fn report(reporter: &Reporter<'_>, decided: &Decided) {
    let all_zero = decided.undecided - decided.half_copied;
    let rules = [
        (decided.equal, "the same on source and destination, counted as hydrated"),
        (decided.written, "written to on the destination, counted as hydrated"),
        (all_zero, "all zero on the destination only, not decided"),
        (decided.half_copied, "apparently half copied, not decided"),
        (decided.nr_unreadable, "not readable, not decided"),
    ];
    for (regions, what) in rules.into_iter().filter(|&(regions, _)| regions > 0) {
        reporter.say(format_args!("compared: {}: {what}", Counted(regions, "region")));
    }
    if decided.half_copied > 0 {
        reporter.say(
            "compared: half copied: on the destination each sector is zero or equal to the source. \
             If a copy was interrupted, unhydrated is right, and hydrated replaces the missing \
             data by zeroes. If zeroes were written there, hydrated is right, and unhydrated \
             undoes these writes",
        );
    }
    report_unreadable(reporter, decided);
}

fn report_unreadable(reporter: &Reporter<'_>, decided: &Decided) {
    let listed = reporter.nr_listed(LISTED);
    for Unreadable { regions, side, error } in decided.unreadable.iter().take(listed) {
        let (begin, end) = (regions.start, regions.end);
        reporter.say(format_args!("regions {begin}..{end}: cannot read the {side}: {error}"));
    }
    let listed = decided.unreadable.iter().take(listed);
    let told: u64 = listed.map(|run| run.regions.end - run.regions.start).sum();
    if told < decided.nr_unreadable {
        let more = Counted(decided.nr_unreadable - told, "more region");
        reporter.say(format_args!("and {more} that cannot be read"));
    }
}
