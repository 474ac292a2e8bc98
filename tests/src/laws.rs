//! Laws that hold for every check, for any metadata. The tests call [`judge`] on damaged images.

use clone_core::geometry::RegionRange;
use clone_core::metadata::auto_repair::{AutoRepairError, auto_repair};
use clone_core::metadata::check::{Report, read};
use clone_core::metadata::damage::{Damage, Severity};
use clone_core::metadata::{Metadata, MetadataError};
use persistent_data::Error;

use crate::damage::ImageEditor;
use crate::runs::joined;

/// Returns the distinct codes of `report` with their severities, ordered by name.
pub fn codes(report: &Report) -> Vec<(&'static str, Severity)> {
    let mut codes: Vec<_> =
        report.damage.iter().map(|damage| (damage.code(), damage.severity())).collect();
    codes.sort_unstable_by_key(|&(code, _)| code);
    codes.dedup();
    codes
}

/// Checks `image`, and holds the result against all laws.
///
/// If `same_regions` is set and the damage is not fatal, the regions must match the bits of the
/// image's original array blocks.
///
/// # Panics
/// If a law is broken.
pub fn judge(image: &ImageEditor, same_regions: bool) -> Report {
    let report = read(image, &());
    messages_name_what_they_are_about(&report);
    lost_regions_are_those_that_the_damage_names(&report);
    no_leak_is_told_when_part_of_a_walk_failed(&report);
    if report.is_fatal() {
        fatal_damage_is_left_alone(image, &report);
    } else {
        let runs: Vec<RegionRange> =
            report.regions.as_ref().expect("nothing fatal").runs().collect();
        if same_regions {
            assert!(runs == image.runs_by_hand(), "misread, and not told: {:?}", report.damage);
        }
        other_damage_bears_writing(image, &report, runs.clone());
        other_damage_is_repaired_in_place(image, &report, &runs);
    }
    report
}

fn messages_name_what_they_are_about(report: &Report) {
    for damage in &report.damage {
        let message = damage.to_string();
        if let Some(at) = damage.block() {
            let named = message.contains(&format!("block {at}"))
                || message.contains(&format!("blocks {at}.."))
                || message.starts_with("superblock: ");
            assert!(named, "no block {at} in {message:?}");
        }
        if let Some(regions) = damage.regions() {
            let text = format!("regions {}..{} unknown", regions.start, regions.end);
            assert!(message.contains(&text), "no {text:?} in {message:?}");
        }
        assert!(!message.contains('\n') && message.len() < 400, "{message:?}");
    }
}

fn lost_regions_are_those_that_the_damage_names(report: &Report) {
    let Some(map) = &report.regions else {
        assert!(report.is_fatal());
        return;
    };
    let named = joined(report.damage.iter().filter_map(Damage::regions).collect());
    assert_eq!(map.lost().collect::<Vec<_>>(), named, "{:?}", report.damage);
    assert_eq!(report.hydrated, Some(map.hydrated()));
    let end = map.runs().chain(map.lost()).map(|run| run.end).max();
    assert!(end.is_none_or(|end| end <= map.nr_regions()));
}

/// Returns whether the walk may have missed references to blocks in use because of this damage.
fn hides_references(damage: &Damage) -> bool {
    let code = damage.code();
    let trees = ["bitset-", "block-shared", "space-map-index-", "space-map-bitmap-"];
    let is_unreadable = trees.iter().any(|prefix| code.starts_with(prefix))
        || code.starts_with("ref-count-tree-")
        || code == "space-map-size";
    is_unreadable && damage.severity() == Severity::Fatal
}

fn no_leak_is_told_when_part_of_a_walk_failed(report: &Report) {
    let leaked = report.metadata_blocks.and_then(|blocks| blocks.leaked);
    if report.regions.is_none() || report.damage.iter().any(hides_references) {
        let leak = report.damage.iter().find(|damage| damage.code() == "leaked-blocks");
        assert!(leak.is_none(), "{:?}", report.damage);
        assert_eq!(leaked, None, "{:?}", report.damage);
    }
}

fn fatal_damage_is_left_alone(image: &ImageEditor, report: &Report) {
    let device = image.clone();
    let opened = Metadata::open(&device);
    assert!(matches!(opened, Err(MetadataError::Damaged(_))), "{opened:?}");
    if report.is_repairable_in_place() {
        return;
    }
    let repaired = auto_repair(&device, report);
    assert!(matches!(repaired, Err(AutoRepairError::Damaged)), "{repaired:?}");
    assert!(device.same_bytes(image), "what must not be touched has been written to");
}

/// Checks that metadata without fatal damage can be written. The writer of clone-core stands in for
/// the kernel: it opens the metadata, changes it and commits twice, so that the second commit uses
/// blocks that the first one freed. Nothing may have become worse.
fn other_damage_bears_writing(image: &ImageEditor, report: &Report, runs: Vec<RegionRange>) {
    let device = image.clone();
    let mut metadata = Metadata::open(&device).expect("nothing fatal");
    let end = metadata.nr_regions();
    let mut expected = runs;
    let first = (0..end).find(|&region| !metadata.is_hydrated(region)).unwrap_or(0);
    for regions in [first..first + 1, end / 2..end, end / 3..end / 2] {
        metadata.set_hydrated(regions.clone()).expect("regions of the clone");
        match metadata.commit() {
            Ok(()) => expected.push(regions),
            // The smallest commit must always find room; larger ones may not.
            Err(MetadataError::Blocks(Error::NoSpace)) if regions.start != first => break,
            Err(error) => panic!("not fatal: {:?}; the commit: {error}", report.damage),
        }
    }
    drop(metadata);
    let after = read(&device, &());
    // A commit keeps the old copy of a block that is wrongly counted as shared, which uses up
    // space.
    let is_worse =
        |damage: &Damage| damage.severity() == Severity::Fatal && damage.code() != "space-map-full";
    let worse = after.damage.iter().any(is_worse);
    assert!(!worse, "before: {:?}; after: {:?}", report.damage, after.damage);
    let regions = after.regions.expect("a sound bitset");
    assert!(regions.runs().eq(joined(expected)), "{:?}", report.damage);
}

fn other_damage_is_repaired_in_place(image: &ImageEditor, report: &Report, runs: &[RegionRange]) {
    let device = image.clone();
    match auto_repair(&device, report) {
        Err(AutoRepairError::NoSpace) => return,
        result => assert!(result.is_ok(), "{:?}; the repair: {result:?}", report.damage),
    }
    let after = read(&device, &());
    // Clearing areas outside the superblock's first sector could tear the superblock. No node is
    // copied just to clear its padding.
    let stays = ["superblock-reserved", "bitset-node-not-zero", "ref-count-tree-not-zero"];
    let may_stay = |damage: &Damage| stays.contains(&damage.code());
    let is_clean = after.damage.iter().all(may_stay);
    assert!(is_clean, "before: {:?}; after: {:?}", report.damage, after.damage);
    let regions = after.regions.expect("nothing fatal");
    assert!(regions.runs().eq(runs.iter().cloned()), "{:?}", report.damage);
    let nothing_to_do = report.damage.is_empty();
    assert!(!nothing_to_do || device.same_bytes(image), "repair changed what was sound");
}
