//! Laws that hold for every repair, for any damage.

use std::io;

use clone_core::geometry::RegionRange;
use clone_core::metadata::check::read;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::metadata::region_map::RegionMap;
use clone_core::metadata::restore::restore;
use clone_core::repair::{CopyAge, Origin, Recovery};
use persistent_data::bitset::BITS_PER_BLOCK;

use crate::damage::ImageEditor;
use crate::runs::{count, minus, union, within};

/// The known state before the damage.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    /// The sizes of the clone, and its UUID.
    pub header: Header,
    /// The hydrated regions of the last commit.
    pub committed: &'a [RegionRange],
    /// The hydrated regions of a commit that was begun, but whose superblock was never written. The
    /// kernel sets a bit once the region's data is on the destination, and only then begins the
    /// commit. A repair that returns these regions as hydrated therefore invents nothing.
    pub unfinished: &'a [RegionRange],
}

impl<'a> Truth<'a> {
    /// Creates a truth without an unfinished commit.
    pub fn new(header: Header, committed: &'a [RegionRange]) -> Self {
        Self { header, committed, unfinished: &[] }
    }

    /// Checks `recovery` against the law that no lost bit is invented: regions that come out as
    /// hydrated were hydrated, and hydrated regions that do not come out so are lost.
    ///
    /// # Errors
    /// A description of the broken law.
    pub fn judge(&self, recovery: &Recovery) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}; {}", told(recovery)));
        let (map, geometry) = (&recovery.regions, self.header.geometry);
        if recovery.header.geometry != geometry || map.nr_regions() != geometry.nr_regions() {
            return wrong("other sizes");
        }
        let all = 0..map.nr_regions();
        let (runs, lost): (Vec<_>, Vec<_>) = (map.runs().collect(), map.lost().collect());
        if !is_normal(&runs, &all) || !is_normal(&lost, &all) {
            return wrong("runs that are none");
        }
        if minus(&runs, &lost) != runs {
            return wrong("regions are hydrated and lost at once");
        }
        let invented = minus(&runs, &union(self.committed, self.unfinished));
        if !invented.is_empty() {
            return wrong(&format!("never hydrated, but it says so: {}", some(&invented)));
        }
        let forgotten = minus(&minus(self.committed, &lost), &runs);
        if !forgotten.is_empty() {
            return wrong(&format!("hydrated, and it denies that: {}", some(&forgotten)));
        }
        let in_doubt = matches!(recovery.origin, Origin::Scan { is_newest: false, .. });
        if in_doubt && union(&runs, &lost) != [all] {
            return wrong(
                "a newer tree may be lost, and yet something is known not to be hydrated",
            );
        }
        settled_either_way(map, &runs, &lost)?;
        finds_tell_what_they_may(recovery, &lost)
    }
}

/// Returns whether `runs` are maximal, ascending and within `all`.
fn is_normal(runs: &[RegionRange], all: &RegionRange) -> bool {
    let apart = runs.windows(2).all(|pair| pair[0].end < pair[1].start);
    apart && runs.iter().all(|run| run.start < run.end && run.end <= all.end)
}

/// Checks that the user's decision changes the lost regions only.
fn settled_either_way(
    map: &RegionMap,
    runs: &[RegionRange],
    lost: &[RegionRange],
) -> Result<(), String> {
    for hydrated in [false, true] {
        let mut settled = map.clone();
        settled.settle_lost(hydrated);
        let expected = if hydrated { union(runs, lost) } else { runs.to_vec() };
        if !settled.is_whole() || !settled.runs().eq(expected) {
            return Err(format!(
                "settling the lost regions as hydrated: {hydrated} changes others"
            ));
        }
    }
    Ok(())
}

fn finds_tell_what_they_may(recovery: &Recovery, lost: &[RegionRange]) -> Result<(), String> {
    for find in &recovery.finds {
        let (regions, still_lost) = (&find.regions, within(lost, &find.regions));
        let nr_regions = recovery.regions.nr_regions();
        let end = nr_regions.min(regions.start + BITS_PER_BLOCK);
        let is_block = regions.start.is_multiple_of(BITS_PER_BLOCK) && regions.end == end;
        let is_lost_too = match find.age {
            CopyAge::Last => !still_lost.is_empty(),
            // Any region in it that is not hydrated may have been hydrated since.
            _ => {
                let hydrated: Vec<_> = recovery.regions.runs().collect();
                union(&within(&hydrated, regions), &still_lost) != [regions.clone()]
            }
        };
        if !is_block || is_lost_too {
            return Err(format!("{find:?} does not tell that; {}", told(recovery)));
        }
    }
    Ok(())
}

/// Describes many regions by the first of them and their number.
fn some(runs: &[RegionRange]) -> String {
    format!("{} regions, {:?}…", count(runs), &runs[..runs.len().min(4)])
}

/// Summarizes a repair.
pub fn told(recovery: &Recovery) -> String {
    let codes: Vec<(&str, Option<_>)> =
        recovery.damage.iter().take(8).map(|damage| (damage.code(), damage.block())).collect();
    let lost: Vec<RegionRange> = recovery.regions.lost().collect();
    format!(
        "{:?}, lost {}, finds {:?}, damage {codes:?}, first candidates {:?}",
        recovery.origin,
        some(&lost),
        &recovery.finds[..recovery.finds.len().min(4)],
        &recovery.candidates[..recovery.candidates.len().min(3)],
    )
}

/// Writes the recovered metadata to a new device, with the lost regions settled as `hydrated`, and
/// checks that it is sound and reads back the same.
///
/// # Panics
/// If it is not.
pub fn expect_restorable(recovery: &Recovery, hydrated: bool) {
    let mut settled = recovery.regions.clone();
    settled.settle_lost(hydrated);
    let output = ImageEditor::blank(MetadataSize::of(recovery.header.geometry).total_blocks());
    let runs = settled.runs().map(Ok::<_, io::Error>);
    restore(&output, recovery.header, runs, &()).expect("a device that is large enough");
    let report = read(&output, &());
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    assert_eq!(report.header(), Some(recovery.header));
    assert!(report.regions.expect("a sound bitset") == settled);
}

#[cfg(test)]
mod tests {
    use clone_core::generate::damage::{BlockRole, DamageKind, Target, damage};
    use clone_core::geometry::RegionRange;
    use clone_core::repair::recover;

    use super::Truth;
    use crate::damage::{IMAGES, ImageEditor};

    fn judged(change: fn(&mut Vec<RegionRange>)) -> Result<(), String> {
        let image = ImageEditor::of("tail");
        let recovery = recover(&image, None, &()).unwrap();
        let mut truth = image.runs_by_hand();
        change(&mut truth);
        Truth::new(recovery.header, &truth).judge(&recovery)
    }

    #[test]
    fn a_bit_too_many_and_a_bit_too_few_break_the_law() {
        assert_eq!(judged(|_| {}), Ok(()));
        let invented = judged(|truth| truth.truncate(truth.len() - 1)).unwrap_err();
        assert!(invented.starts_with("never hydrated"), "{invented}");
        let forgotten = judged(|truth| truth.insert(0, 0..1)).unwrap_err();
        assert!(forgotten.starts_with("hydrated, and"), "{forgotten}");
    }

    #[test]
    fn what_is_lost_may_have_been_hydrated_or_not() {
        for name in IMAGES {
            let image = ImageEditor::of(name);
            let target = Target { role: BlockRole::ArrayBlock, ordinal: Some(0) };
            damage(&image, target, DamageKind::Zero, 0).unwrap();
            let recovery = recover(&image, None, &()).unwrap();
            let truth = ImageEditor::of(name).runs_by_hand();
            assert_eq!(Truth::new(recovery.header, &truth).judge(&recovery), Ok(()), "{name}");
        }
    }
}
