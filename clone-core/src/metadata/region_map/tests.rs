//! A map returns what was stored in it.

use persistent_data::bitset::BITS_PER_BLOCK;
use quickcheck::quickcheck;
use zerocopy::little_endian as le;

use super::{Chunk, RUNS_MAX, RegionMap, RegionRange, census};

/// Makes a map of `nr_regions` the way metadata is read: one array block after the other.
fn map_of(nr_regions: u64, runs: &[RegionRange]) -> RegionMap {
    let hydrated = |region: u64| runs.iter().any(|run| run.contains(&region));
    let mut map = RegionMap::lost_whole(nr_regions);
    for chunk in 0..map.nr_chunks() {
        let regions = map.regions_of(chunk);
        let bits = regions.end - regions.start;
        let words: Vec<le::U64> = (regions.start..regions.end)
            .step_by(64)
            .map(|first| {
                let in_word = first..(first + 64).min(regions.end);
                let bit = |region| u64::from(hydrated(region)) << (region - first);
                in_word.map(bit).sum::<u64>().into()
            })
            .collect();
        let census = census(&words, bits);
        assert!(!census.trailing_bits);
        let counted = (regions.start..regions.end).filter(|&r| hydrated(r)).count();
        assert_eq!(census.hydrated, counted as u64);
        map.fill(chunk, &words, census);
    }
    map
}

#[test]
fn runs_are_maximal_across_words_and_array_blocks() {
    let per_block = BITS_PER_BLOCK;
    for nr_regions in [1, 63, 64, 65, per_block - 1, per_block, per_block + 1, 2 * per_block] {
        for runs in [
            vec![],
            vec![0..1],
            vec![nr_regions - 1..nr_regions],
            vec![0..nr_regions],
            vec![nr_regions / 3..nr_regions / 2, nr_regions / 2 + 1..nr_regions],
        ] {
            let runs: Vec<RegionRange> =
                runs.into_iter().filter(|run: &RegionRange| !run.is_empty()).collect();
            let map = map_of(nr_regions, &runs);
            assert_eq!(map.runs().collect::<Vec<_>>(), runs, "{nr_regions} regions");
            assert_eq!(map.hydrated(), runs.iter().map(|run| run.end - run.start).sum::<u64>());
            assert!(map.is_whole());
            assert_eq!(map.words().count() as u64, nr_regions.div_ceil(64));
            let bits: u64 = map.words().map(|word| u64::from(word.count_ones())).sum();
            assert_eq!(bits, map.hydrated());
        }
    }
}

#[test]
fn lost_array_blocks_are_neither_hydrated_nor_not_until_they_are_settled() {
    let mut map = map_of(3 * BITS_PER_BLOCK, &[10..BITS_PER_BLOCK]);
    map.chunks[1] = Chunk::Lost;
    let lost = BITS_PER_BLOCK..2 * BITS_PER_BLOCK;
    assert_eq!(map.lost().collect::<Vec<_>>(), [lost]);
    assert_eq!(map.runs().collect::<Vec<_>>(), [10..BITS_PER_BLOCK]);
    assert!(!map.is_whole());
    let mut hydrated = map.clone();
    hydrated.settle_lost(true);
    assert_eq!(hydrated.runs().collect::<Vec<_>>(), [10..2 * BITS_PER_BLOCK]);
    map.settle_lost(false);
    assert_eq!(map.runs().collect::<Vec<_>>(), [10..BITS_PER_BLOCK]);
    assert!(map.is_whole() && hydrated.is_whole());
}

#[test]
fn bits_past_the_last_region_are_seen_and_left_out() {
    for (word, len, hydrated) in [(0b1011, 2, 0..2), (0b1010, 3, 1..2)] {
        let words = [le::U64::new(word)];
        let census = census(&words, len);
        assert!(census.trailing_bits);
        assert_eq!(census.hydrated, hydrated.end - hydrated.start);
        let mut map = RegionMap::lost_whole(len);
        map.fill(0, &words, census);
        assert_eq!(map.runs().collect::<Vec<_>>(), [hydrated]);
    }
}

#[test]
fn few_runs_are_those_that_the_bits_show() {
    let patterns = [0, 1, 1 << 63, u64::MAX, u64::MAX << 1, u64::MAX >> 1, 0xff00_ff00_ff00_ff01];
    for (a, b, c) in patterns
        .iter()
        .flat_map(|&a| patterns.iter().flat_map(move |&b| patterns.map(|c| (a, b, c))))
    {
        for len in [129, 130, 191, 192] {
            let mut bits = [a, b, c];
            let words = bits.map(le::U64::new);
            bits[2] &= super::low_bits(len - 128);
            let expected: Vec<(u16, u16)> =
                super::BitRuns::of(&bits).map(|run| (run.start as u16, run.end as u16)).collect();
            assert_eq!(super::few_runs(&words, len).unwrap().to_vec(), expected, "{bits:x?}");
        }
    }
}

#[test]
fn many_runs_are_kept_as_bits_and_few_as_runs() {
    let len = BITS_PER_BLOCK;
    for (step, as_bits) in [(2, true), (64, false), (63, true)] {
        let runs: Vec<RegionRange> = (0..len).step_by(step).map(|at| at..at + 1).collect();
        let map = map_of(len, &runs);
        assert_eq!(runs.len() > RUNS_MAX, as_bits);
        assert_eq!(matches!(map.chunks[0], Chunk::Bits(_)), as_bits, "every {step}th");
        assert_eq!(map.runs().collect::<Vec<_>>(), runs);
        assert_eq!(map.hydrated(), runs.len() as u64);
    }
}

quickcheck! {
    fn any_set_of_regions_comes_back_as_its_runs(bits: Vec<bool>) -> bool {
        if bits.is_empty() {
            return true;
        }
        let hydrated: Vec<u64> = (0..bits.len() as u64).filter(|&r| bits[r as usize]).collect();
        let single = |&region: &u64| region..region + 1;
        let singles: Vec<RegionRange> = hydrated.iter().map(single).collect();
        let map = map_of(bits.len() as u64, &singles);
        let runs: Vec<RegionRange> = map.runs().collect();
        let separate = runs.windows(2).all(|pair| pair[0].end < pair[1].start);
        separate && runs.into_iter().flatten().eq(hydrated)
    }
}
