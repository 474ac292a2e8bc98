//! The arrangements of hydrated regions, and the choice of the regions.

use rand::RngExt;
use rand::rngs::StdRng;

use super::of_any_size;
use super::regions::Regions;
use crate::geometry::Geometry;

/// Arrangement of the hydrated regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Each region has the same probability.
    Random,
    /// Runs of 1 to 4096 regions, or up to a 32nd of a small clone.
    Runs,
    /// Evenly distributed regions: for half of them, every second region. The worst case for code
    /// that stores runs.
    Checkerboard,
    /// Like a file system: regions at the start of each group of 128 MiB, and files of any size
    /// elsewhere. A small clone has 16 groups.
    FileSystem,
}

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 4] = [Self::Random, Self::Runs, Self::Checkerboard, Self::FileSystem];
}

/// Maximum length of a run of [`Pattern::Runs`], in regions.
const RUN_MAX: u64 = 4096;

/// Sectors in a group of a file system: 128 MiB, as in ext4 with blocks of 4 KiB.
const GROUP_SECTORS: u64 = 1 << 18;

/// Minimum number of groups of a file system, unless it is very small.
const GROUPS_MIN: u64 = 16;

/// Minimum number of regions in a group, unless the file system is very small.
const GROUP_MIN: u64 = 64;

/// Chooses `percent` of all regions, rounded down, by `pattern`.
pub(super) fn choose(
    pattern: Pattern,
    geometry: Geometry,
    percent: u8,
    rng: &mut StdRng,
) -> Regions {
    let nr_regions = geometry.nr_regions();
    let wanted = nr_regions * u64::from(percent) / 100;
    let mut regions = Regions::none(nr_regions);
    match pattern {
        // There is no choice to make, and the search would be slow.
        _ if wanted == nr_regions => regions.insert(0..nr_regions),
        Pattern::Random => random(&mut regions, wanted, rng),
        Pattern::Runs => runs(&mut regions, wanted, rng),
        Pattern::Checkerboard => checkerboard(&mut regions, wanted),
        Pattern::FileSystem => {
            let group = GROUP_SECTORS / geometry.region_size().sectors().0;
            file_system(&mut regions, wanted, group, rng);
        }
    }
    regions
}

/// Chooses each region with the same probability.
fn random(regions: &mut Regions, wanted: u64, rng: &mut StdRng) {
    let nr_regions = regions.nr_regions();
    for region in 0..nr_regions {
        if rng.random_range(0..nr_regions - region) < wanted - regions.count() {
            regions.insert(region..region + 1);
        }
    }
}

/// Distributes the regions as evenly as possible.
fn checkerboard(regions: &mut Regions, wanted: u64) {
    let nr_regions = regions.nr_regions();
    let so_far =
        |region: u64| (u128::from(region) * u128::from(wanted)).div_ceil(nr_regions.into());
    for region in (0..nr_regions).filter(|&region| so_far(region + 1) > so_far(region)) {
        regions.insert(region..region + 1);
    }
}

/// Chooses runs of any length, with gaps between them.
fn runs(regions: &mut Regions, wanted: u64, rng: &mut StdRng) {
    let nr_regions = regions.nr_regions();
    let longest = (nr_regions / 32).clamp(1, RUN_MAX);
    let mut lengths = Vec::new();
    let mut left = wanted;
    while left > 0 {
        let length = of_any_size(rng, longest).min(left);
        lengths.push(length);
        left -= length;
    }
    // For each run, the number of regions before it that are not hydrated.
    let other = nr_regions - wanted;
    let mut before: Vec<u64> = lengths.iter().map(|_| rng.random_range(0..=other)).collect();
    before.sort_unstable();
    for (length, before) in lengths.into_iter().zip(before) {
        let start = before + regions.count();
        regions.insert(start..start + length);
    }
}

/// Imitates a file system: chooses regions at the start of each group, and files of any size in
/// between.
fn file_system(regions: &mut Regions, wanted: u64, group: u64, rng: &mut StdRng) {
    let nr_regions = regions.nr_regions();
    let group = group.max(GROUP_MIN).min(nr_regions / GROUPS_MIN).max(1);
    for start in (0..nr_regions).step_by(group as usize) {
        let length = of_any_size(rng, (group / 32).max(1)).min(wanted - regions.count());
        fill(regions, start, length);
    }
    while regions.count() < wanted {
        let length = of_any_size(rng, (group / 4).max(1)).min(wanted - regions.count());
        fill(regions, rng.random_range(0..nr_regions), length);
    }
}

/// Inserts the first absent regions at or after `goal`, at most `length` adjacent ones; the search
/// wraps at the end. At least one region must be absent.
fn fill(regions: &mut Regions, goal: u64, length: u64) {
    let nr_regions = regions.nr_regions();
    let mut start = regions.next_absent(goal..nr_regions);
    if start == nr_regions {
        start = regions.next_absent(0..goal);
    }
    let end = regions.next(start..nr_regions.min(start + length));
    regions.insert(start..end);
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::choose;
    use crate::generate::Regions;
    use crate::generate::metadata::Pattern;
    use crate::geometry::{Geometry, RegionSize, Sectors};

    fn chosen(pattern: Pattern, nr_regions: u64, percent: u8) -> Regions {
        let region_size = RegionSize::new(Sectors(8)).unwrap();
        let geometry = Geometry::new(region_size, Sectors(8 * nr_regions)).unwrap();
        choose(pattern, geometry, percent, &mut StdRng::seed_from_u64(nr_regions))
    }

    #[test]
    fn every_pattern_gives_the_share_that_was_asked_for() {
        for pattern in Pattern::ALL {
            for nr_regions in [1, 2, 3, 63, 64, 65, 100, 1000, 100_000] {
                for percent in [0, 1, 33, 50, 99, 100] {
                    let regions = chosen(pattern, nr_regions, percent);
                    let wanted = nr_regions * u64::from(percent) / 100;
                    assert_eq!(regions.count(), wanted, "{pattern:?} {percent} of {nr_regions}");
                    let counted: u64 = regions.runs().map(|run| run.end - run.start).sum();
                    assert_eq!(counted, wanted);
                }
            }
        }
    }

    #[test]
    fn the_patterns_are_what_they_are_called() {
        let nr_runs = |pattern, percent| chosen(pattern, 100_000, percent).runs().count();
        assert_eq!(nr_runs(Pattern::Checkerboard, 50), 50_000);
        assert_eq!(nr_runs(Pattern::Checkerboard, 10), 10_000);
        assert!((20_000..30_000).contains(&nr_runs(Pattern::Random, 50)));
        for pattern in [Pattern::Runs, Pattern::FileSystem] {
            let nr_runs = nr_runs(pattern, 50);
            assert!((50..500).contains(&nr_runs), "{nr_runs} {pattern:?}");
        }
        let file_system = chosen(Pattern::FileSystem, 100_000, 20);
        assert!((0..100_000).step_by(6250).all(|group| file_system.contains(group)));
    }
}
