//! Counts of the regions of a range by their state.

use persistent_data::bitset::{BITS_PER_BLOCK, masks, nr_array_blocks};

use super::{Chunk, RegionMap};
use crate::geometry::RegionRange;

/// Numbers of regions by state. The other regions of the range are known not to be hydrated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of hydrated regions.
    pub hydrated: u64,
    /// Number of lost regions.
    pub lost: u64,
}

impl RegionMap {
    /// Counts the regions in `regions`, half-open; those past the end are ignored.
    ///
    /// It takes at most a few hundred steps per array block of the range, for any number of regions
    /// in it.
    pub fn tally(&self, regions: RegionRange) -> Tally {
        let mut tally = Tally::default();
        let end = regions.end.min(self.nr_regions);
        if regions.start >= end {
            return tally;
        }
        for index in regions.start / BITS_PER_BLOCK..nr_array_blocks(end) {
            let chunk = self.regions_of(index);
            let within =
                regions.start.max(chunk.start) - chunk.start..end.min(chunk.end) - chunk.start;
            match &self.chunks[index as usize] {
                Chunk::Lost => tally.lost += within.end - within.start,
                Chunk::Zeroes => {}
                Chunk::Ones => tally.hydrated += within.end - within.start,
                Chunk::Runs(runs) => tally.hydrated += in_runs(runs, &within),
                Chunk::Bits(words) => tally.hydrated += in_words(words, &within),
                Chunk::Partly(planes) => {
                    tally.hydrated += in_words(&planes.hydrated, &within);
                    tally.lost += in_words(&planes.lost, &within);
                }
            }
        }
        tally
    }
}

/// Returns how many regions of `within` are in the runs.
fn in_runs(runs: &[(u16, u16)], within: &RegionRange) -> u64 {
    let overlap = |&(begin, end): &(u16, u16)| {
        let (begin, end) = (u64::from(begin).max(within.start), u64::from(end).min(within.end));
        end.saturating_sub(begin)
    };
    runs.iter().map(overlap).sum()
}

/// Returns how many bits of `within` are set.
fn in_words(words: &[u64], within: &RegionRange) -> u64 {
    super::count_ones(masks(within.clone()).map(|(index, mask)| words[index as usize] & mask))
}

#[cfg(test)]
mod tests {
    use persistent_data::bitset::BITS_PER_BLOCK;
    use quickcheck::quickcheck;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::{Chunk, RegionMap};
    use super::Tally;
    use crate::geometry::RegionRange;

    /// Makes a map with one array block of each form, and a short last one.
    fn mixed() -> RegionMap {
        let random = &mut StdRng::seed_from_u64(7);
        let words = (0..509).map(|_| random.random()).collect();
        let chunks = vec![
            Chunk::Zeroes,
            Chunk::Ones,
            Chunk::Runs([(0, 1), (63, 65), (1000, 32576)].into()),
            Chunk::Lost,
            Chunk::Bits(words),
            Chunk::Ones,
        ];
        RegionMap { nr_regions: 5 * BITS_PER_BLOCK + 100, chunks }
    }

    fn overlap(runs: impl Iterator<Item = RegionRange>, with: &RegionRange) -> u64 {
        runs.map(|run| run.end.min(with.end).saturating_sub(run.start.max(with.start))).sum()
    }

    fn is_right(map: &RegionMap, regions: RegionRange) -> bool {
        let hydrated = overlap(map.runs(), &regions);
        let lost = overlap(map.lost(), &regions);
        map.tally(regions) == Tally { hydrated, lost }
    }

    #[test]
    fn the_whole_is_what_the_map_has() {
        let map = mixed();
        let all = map.tally(0..map.nr_regions());
        assert_eq!(all, Tally { hydrated: map.hydrated(), lost: BITS_PER_BLOCK });
        assert_eq!(map.tally(0..u64::MAX), all);
        assert_eq!(map.tally(map.nr_regions()..u64::MAX), Tally::default());
        assert_eq!(map.tally(7..7), Tally::default());
    }

    #[test]
    fn ranges_that_begin_and_end_near_a_border_are_counted_right() {
        let map = mixed();
        let borders = [0, 64, 128, 1000, BITS_PER_BLOCK, 2 * BITS_PER_BLOCK, 4 * BITS_PER_BLOCK];
        let near: Vec<u64> = (borders.iter().flat_map(|&at| at.saturating_sub(2)..at + 3))
            .chain([4 * BITS_PER_BLOCK + 63, 4 * BITS_PER_BLOCK + 64, map.nr_regions() - 1])
            .collect();
        for &begin in &near {
            for &end in near.iter().filter(|&&end| end >= begin) {
                assert!(is_right(&map, begin..end), "{begin}..{end}");
            }
        }
    }

    quickcheck! {
        fn any_range_is_counted_as_its_runs_show(begin: u32, len: u32) -> bool {
            let map = mixed();
            let begin = u64::from(begin) % map.nr_regions();
            is_right(&map, begin..begin + u64::from(len) % map.nr_regions())
        }
    }
}
