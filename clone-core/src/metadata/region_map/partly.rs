//! Array blocks of which some regions are lost and others are known.

use persistent_data::bitset::{BITS_PER_WORD, low_bits, nr_array_blocks, nr_words};
use zerocopy::little_endian as le;

use super::{BITS_PER_BLOCK, BitRuns, Chunk, Planes, RegionMap, State, WORDS_PER_BLOCK, set_bits};
use crate::geometry::RegionRange;

impl RegionMap {
    /// Sets every lost region in `regions`, half-open, to hydrated or not hydrated. Regions past
    /// the end are ignored, and known regions stay unchanged.
    pub fn settle(&mut self, regions: RegionRange, hydrated: bool) {
        let end = regions.end.min(self.nr_regions);
        if regions.start >= end {
            return;
        }
        for index in regions.start / BITS_PER_BLOCK..nr_array_blocks(end) {
            if self.knows(index) {
                continue;
            }
            let chunk = self.regions_of(index);
            let within =
                regions.start.max(chunk.start) - chunk.start..end.min(chunk.end) - chunk.start;
            let mut settled = vec![0; nr_words(chunk.end - chunk.start) as usize];
            set_bits(&mut settled, within);
            let mut planes = self.planes(index);
            for (word, settled) in settled.into_iter().enumerate() {
                let settled = settled & planes.lost[word];
                planes.lost[word] &= !settled;
                if hydrated {
                    planes.hydrated[word] |= settled;
                }
            }
            self.put(index, planes);
        }
    }

    /// Returns the first run of lost regions at or after region `from`, within one array block.
    /// Unlike [`lost`](Self::lost), it allows the map to be settled between two runs.
    pub(crate) fn first_lost_run(&self, from: u64) -> Option<RegionRange> {
        (from / BITS_PER_BLOCK..self.nr_chunks()).find_map(|index| {
            let chunk = self.regions_of(index);
            let from = from.max(chunk.start);
            match &self.chunks[index as usize] {
                Chunk::Lost => Some(from..chunk.end).filter(|run| !run.is_empty()),
                Chunk::Partly(planes) => {
                    let mut runs = BitRuns::from(&planes.lost, from - chunk.start);
                    runs.next().map(|run| chunk.start + run.start..chunk.start + run.end)
                }
                Chunk::Zeroes | Chunk::Ones | Chunk::Runs(_) | Chunk::Bits(_) => None,
            }
        })
    }

    /// Returns whether no region of array block `chunk` is lost.
    pub(crate) fn knows(&self, chunk: u64) -> bool {
        !matches!(self.chunks[chunk as usize], Chunk::Lost | Chunk::Partly(_))
    }

    /// Returns the known state of array block `chunk`, bit by bit.
    pub(crate) fn planes(&self, chunk: u64) -> Planes {
        // Conversion by runs is slow for thousands of runs, and then this is called often.
        match &self.chunks[chunk as usize] {
            Chunk::Partly(planes) => return (**planes).clone(),
            Chunk::Bits(words) => {
                return Planes { hydrated: words.clone(), lost: vec![0; words.len()].into() };
            }
            Chunk::Lost | Chunk::Zeroes | Chunk::Ones | Chunk::Runs(_) => {}
        }
        let regions = self.regions_of(chunk);
        let nr_words = nr_words(regions.end - regions.start) as usize;
        let plane = |state| {
            let mut words = vec![0; nr_words].into_boxed_slice();
            for run in self.pieces_in(chunk, state) {
                set_bits(&mut words, run.start - regions.start..run.end - regions.start);
            }
            words
        };
        Planes { hydrated: plane(State::Hydrated), lost: plane(State::Lost) }
    }

    /// Stores the state of array block `chunk`. Bits past its last region are cleared, and regions
    /// that are set in both planes count as hydrated.
    pub(crate) fn put(&mut self, chunk: u64, mut planes: Planes) {
        let regions = self.regions_of(chunk);
        let len = regions.end - regions.start;
        let nr_words = nr_words(len) as usize;
        assert!(planes.hydrated.len() == nr_words && planes.lost.len() == nr_words);
        assert!(nr_words <= WORDS_PER_BLOCK);
        let in_last = low_bits(len - (nr_words as u64 - 1) * BITS_PER_WORD);
        for word in 0..nr_words {
            let mask = if word + 1 == nr_words { in_last } else { u64::MAX };
            planes.hydrated[word] &= mask;
            planes.lost[word] &= mask & !planes.hydrated[word];
        }
        let ones = |words: &[u64]| super::count_ones(words.iter().copied());
        self.chunks[chunk as usize] = match (ones(&planes.hydrated), ones(&planes.lost)) {
            (0, 0) => Chunk::Zeroes,
            (hydrated, 0) if hydrated == len => Chunk::Ones,
            (_, 0) => {
                let words: Vec<le::U64> = planes.hydrated.iter().map(|&w| w.into()).collect();
                Chunk::of(&words, len)
            }
            (_, lost) if lost == len => Chunk::Lost,
            _ => Chunk::Partly(Box::new(planes)),
        };
    }
}

#[cfg(test)]
mod tests {
    use persistent_data::bitset::BITS_PER_BLOCK;
    use quickcheck::quickcheck;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::{Chunk, Planes, RegionMap, Tally};
    use crate::geometry::RegionRange;

    const TAIL: u64 = 100;

    /// Makes a map of a lost array block, a partly known one, and a short last one.
    fn torn(seed: u64) -> RegionMap {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut map = RegionMap::lost_whole(2 * BITS_PER_BLOCK + TAIL);
        for (chunk, words) in [(1, 509), (2, 2)] {
            let mut plane = || (0..words).map(|_| random.random::<u64>()).collect::<Box<[u64]>>();
            map.put(chunk, Planes { hydrated: plane(), lost: plane() });
        }
        map
    }

    fn bits(runs: impl Iterator<Item = RegionRange>) -> Vec<u64> {
        runs.flatten().collect()
    }

    #[test]
    fn what_is_put_in_comes_back_and_no_region_is_in_two_states() {
        let map = torn(1);
        assert!(matches!(map.chunks[..], [Chunk::Lost, Chunk::Partly(_), Chunk::Partly(_)]));
        let (hydrated, lost) = (bits(map.runs()), bits(map.lost()));
        assert!(!hydrated.iter().any(|region| lost.binary_search(region).is_ok()));
        assert!(hydrated.iter().chain(&lost).all(|&region| region < map.nr_regions()));
        let tally = Tally { hydrated: hydrated.len() as u64, lost: lost.len() as u64 };
        assert_eq!(map.tally(0..map.nr_regions()), tally);
        assert_eq!(map.hydrated(), tally.hydrated);
        let mut again = RegionMap::lost_whole(map.nr_regions());
        (0..3).for_each(|chunk| again.put(chunk, map.planes(chunk)));
        assert_eq!(again, map);
    }

    #[test]
    fn settling_everything_leaves_nothing_lost_and_what_was_known_as_it_was() {
        for hydrated in [false, true] {
            let map = torn(2);
            let mut settled = map.clone();
            settled.settle_lost(hydrated);
            assert!(settled.is_whole());
            let mut expected = bits(map.runs());
            if hydrated {
                expected.extend(bits(map.lost()));
                expected.sort_unstable();
            }
            assert_eq!(bits(settled.runs()), expected);
        }
    }

    #[test]
    fn lost_runs_are_found_one_by_one_from_any_region_on() {
        let map = torn(3);
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(run) = map.first_lost_run(from) {
            assert!(from <= run.start && run.start < run.end && run.end <= map.nr_regions());
            // From within a run, the rest of it is found.
            assert_eq!(map.first_lost_run(run.end - 1), Some(run.end - 1..run.end));
            from = run.end;
            found.push(run);
        }
        assert_eq!(bits(found.into_iter()), bits(map.lost()));
        assert_eq!(map.first_lost_run(map.nr_regions()), None);
        assert_eq!(map.first_lost_run(u64::MAX), None);
    }

    quickcheck! {
        fn settling_a_range_touches_the_lost_regions_in_it(
            seed: u64, begin: u32, len: u32, hydrated: bool
        ) -> bool {
            let map = torn(seed);
            let begin = u64::from(begin) % map.nr_regions();
            let range = begin..begin + u64::from(len) % map.nr_regions();
            let mut settled = map.clone();
            settled.settle(range.clone(), hydrated);
            let (inside, outside): (Vec<u64>, Vec<u64>) =
                bits(map.lost()).into_iter().partition(|region| range.contains(region));
            let mut expected = bits(map.runs());
            if hydrated {
                expected.extend(inside);
                expected.sort_unstable();
            }
            bits(settled.lost()) == outside && bits(settled.runs()) == expected
        }
    }
}
