//! The order in which regions are hydrated.

use persistent_data::bitset::{BITS_PER_BLOCK, nr_array_blocks};
use rand::RngExt;
use rand::rngs::StdRng;

use super::of_any_size;
use super::regions::Regions;
use crate::geometry::RegionRange;

/// Maximum number of array blocks for the scattered writes of one commit.
const SCATTERED_MAX: usize = 16;

/// Maximum number of regions that one write hydrates.
const WRITE_MAX: u64 = 256;

/// The regions that are not hydrated yet, and the position of the background hydration.
pub(super) struct Churn {
    left: Regions,
    /// Number of remaining regions in each array block.
    left_in: Vec<u64>,
    /// Array blocks with remaining regions, in any order.
    open: Vec<usize>,
    /// Position of the background hydration: nothing remains before it.
    cursor: u64,
    /// Regions that the present commit hydrates.
    batch: Vec<RegionRange>,
}

impl Churn {
    /// Starts the hydration of `wanted`.
    pub(super) fn new(wanted: Regions) -> Self {
        let nr_blocks = nr_array_blocks(wanted.nr_regions());
        let left_in: Vec<u64> =
            (0..nr_blocks).map(|block| wanted.count_in(regions_of(&wanted, block))).collect();
        let open = (0..left_in.len()).filter(|&block| left_in[block] > 0).collect();
        Self { left: wanted, left_in, open, cursor: 0, batch: Vec::new() }
    }

    /// Returns the regions that commit number `number` hydrates. `commits` are left, including this
    /// one. The last one gets all remaining regions.
    pub(super) fn batch(
        &mut self,
        number: u64,
        commits: u64,
        rng: &mut StdRng,
    ) -> Vec<RegionRange> {
        let share = self.left.count() / commits;
        // Each of the later commits must get something, too.
        let most = self.left.count().saturating_sub(commits - 1).max(1);
        let budget = rng.random_range(share / 2..=share + share / 2).clamp(1, most);
        match number % 4 {
            0 => {
                self.write_to(3, budget / 4, rng);
                self.go_on(budget - budget / 4);
            }
            1 => self.write_to(1, budget, rng),
            2 => self.write_to(rng.random_range(2..=SCATTERED_MAX), budget, rng),
            _ => self.go_on(budget),
        }
        if commits == 1 {
            self.go_on(u64::MAX);
        }
        std::mem::take(&mut self.batch)
    }

    /// Hydrates up to `budget` regions in the background.
    fn go_on(&mut self, mut budget: u64) {
        while budget > 0 && self.left.count() > 0 {
            let end = self.left.nr_regions();
            self.cursor = self.left.next(self.cursor..end);
            let taken = self.take(self.cursor, end, budget);
            self.cursor += taken;
            budget -= taken;
        }
    }

    /// Writes to `nr_blocks` array blocks, or to all with remaining regions if there are fewer. The
    /// writes hydrate up to `budget` regions in total.
    fn write_to(&mut self, nr_blocks: usize, budget: u64, rng: &mut StdRng) {
        let nr_blocks = nr_blocks.min(self.open.len()).min(budget as usize);
        for place in 0..nr_blocks {
            let other = rng.random_range(place..self.open.len());
            self.open.swap(place, other);
        }
        let blocks = self.open[..nr_blocks].to_vec();
        for block in blocks {
            self.write_in(block, budget / nr_blocks as u64, rng);
        }
    }

    /// Writes to random places of one array block.
    fn write_in(&mut self, block: usize, mut budget: u64, rng: &mut StdRng) {
        let RegionRange { start, end } = regions_of(&self.left, block as u64);
        while budget > 0 && self.left_in[block] > 0 {
            let goal = rng.random_range(start..end);
            let mut first = self.left.next(goal..end);
            if first == end {
                first = self.left.next(start..goal);
            }
            budget -= self.take(first, end, of_any_size(rng, budget.min(WRITE_MAX)));
        }
    }

    /// Hydrates at most `most` adjacent remaining regions from `first`, which must remain, up to
    /// `end`. Returns their number.
    fn take(&mut self, first: u64, end: u64, most: u64) -> u64 {
        let run = first..self.left.next_absent(first..end.min(first.saturating_add(most)));
        for block in run.start / BITS_PER_BLOCK..nr_array_blocks(run.end) {
            let regions = regions_of(&self.left, block);
            let taken = run.end.min(regions.end) - run.start.max(regions.start);
            self.left_in[block as usize] -= taken;
            if self.left_in[block as usize] == 0 {
                self.open.retain(|&open| open != block as usize);
            }
        }
        let taken = run.end - run.start;
        self.left.remove(run.clone());
        self.batch.push(run);
        taken
    }
}

/// Returns the regions of array block `block`.
fn regions_of(of: &Regions, block: u64) -> RegionRange {
    block * BITS_PER_BLOCK..of.nr_regions().min((block + 1) * BITS_PER_BLOCK)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use persistent_data::bitset::BITS_PER_BLOCK;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::Churn;
    use crate::generate::Regions;
    use crate::geometry::RegionRange;

    fn array_blocks(batch: &[RegionRange]) -> BTreeSet<u64> {
        let blocks =
            |run: &RegionRange| run.start / BITS_PER_BLOCK..run.end.div_ceil(BITS_PER_BLOCK);
        batch.iter().flat_map(blocks).collect()
    }

    fn wanted(nr_regions: u64) -> Regions {
        let mut wanted = Regions::none(nr_regions);
        for first in (0..nr_regions).step_by(10) {
            wanted.insert(first..nr_regions.min(first + 4));
        }
        wanted
    }

    #[test]
    fn every_commit_hydrates_something_and_together_they_hydrate_all() {
        for (nr_regions, commits) in [(1, 1), (10, 4), (100, 40), (100_000, 3), (500_000, 100)] {
            let wanted = wanted(nr_regions);
            let mut rng = StdRng::seed_from_u64(nr_regions);
            let mut churn = Churn::new(wanted.clone());
            let mut hydrated = Regions::none(nr_regions);
            for number in 0..commits {
                let batch = churn.batch(number, commits - number, &mut rng);
                assert!(!batch.is_empty(), "commit {number} of {commits}");
                for run in batch {
                    assert_eq!(hydrated.count_in(run.clone()), 0);
                    hydrated.insert(run);
                }
            }
            assert!(hydrated == wanted, "{nr_regions} by {commits}");
            assert!(churn.open.is_empty());
        }
    }

    #[test]
    fn when_nothing_is_left_the_batches_are_empty() {
        let mut rng = StdRng::seed_from_u64(0);
        let mut churn = Churn::new(wanted(4));
        let sizes: Vec<usize> =
            (0..8).map(|number| churn.batch(number, 8 - number, &mut rng).len()).collect();
        assert!(sizes[..4].iter().all(|&size| size == 1) && sizes[4..] == [0; 4], "{sizes:?}");
    }

    #[test]
    fn some_commits_touch_one_array_block_and_some_touch_many() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut churn = Churn::new(wanted(40 * BITS_PER_BLOCK));
        let mut touched = [const { BTreeSet::new() }; 4];
        for number in 0..100 {
            let blocks = array_blocks(&churn.batch(number, 100 - number, &mut rng));
            touched[number as usize % 4].insert(blocks.len());
        }
        assert_eq!(touched[1], BTreeSet::from([1]));
        assert!(touched[2].iter().all(|&nr_blocks| nr_blocks > 1), "{touched:?}");
        assert!(touched[2].last() > Some(&10), "{touched:?}");
    }

    #[test]
    fn the_background_begins_at_the_start_and_writes_come_from_anywhere() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut churn = Churn::new(wanted(1_000_000));
        let batches: Vec<_> =
            (0..8).map(|number| churn.batch(number, 80 - number, &mut rng)).collect();
        assert!(batches[0].iter().any(|run| run.start == 0));
        let ascends = |batch: &[RegionRange]| batch.is_sorted_by_key(|run| run.start);
        assert!(ascends(&batches[3]) && ascends(&batches[7]) && !ascends(&batches[1]));
        assert!(batches[3].last().unwrap().start < batches[7][0].start);
        assert!(batches[7][0].start < 500_000);
    }
}
