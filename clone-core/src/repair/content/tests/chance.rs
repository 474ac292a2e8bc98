//! Decisions on small random devices, checked against the rules.

use std::cell::Cell;

use quickcheck::{TestResult, quickcheck};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::piece::Pieces;
use super::super::{Side, decide_by_pieces};
use super::SMALL;
use super::model::{counts, geometry, model};
use crate::geometry::{Geometry, RegionRange};
use crate::metadata::region_map::RegionMap;
use crate::progress::Progress;

#[derive(Default)]
struct Steps {
    total: Cell<u64>,
    done: Cell<u64>,
}

impl Progress for Steps {
    fn set_total(&self, blocks: u64) {
        self.total.set(blocks);
    }

    fn advance(&self, blocks: u64) {
        self.done.set(self.done.get() + blocks);
        assert!(self.done.get() <= self.total.get());
    }
}

/// Two small random devices, and the lost regions of their clone.
struct Chance {
    geometry: Geometry,
    piece_bytes: usize,
    source: Vec<u8>,
    destination: Vec<u8>,
    bad: [Vec<u64>; 2],
    map: RegionMap,
}

impl Chance {
    fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        // Pieces of 1 to 8 blocks, regions of 1 to 16: parts of regions, and several regions per
        // piece.
        let piece_bytes = 4096 << random.random_range(0..4);
        let region = SMALL << random.random_range(0..5);
        let sectors = random.random_range(1..40 * region);
        let geometry = geometry(region, sectors);
        let odds = [1, 20, 200, 2000][random.random_range(0..4)];
        let source: Vec<u8> = (0..sectors).map(|_| random.random_range(0..2)).collect();
        let mut destination = source.clone();
        // Some regions are copied, some half copied, some not copied, some written.
        for sectors in destination.chunks_mut(region as usize) {
            let kind = random.random_range(0..4);
            for sector in sectors {
                match kind {
                    1 => *sector = 0,
                    2 if random.random_ratio(1, 4) => *sector = 0,
                    3 if random.random_ratio(1, odds) => *sector = 9,
                    _ => {}
                }
            }
        }
        let mut bad =
            || (0..sectors).filter(|_| random.random_ratio(1, 100 * odds)).collect::<Vec<u64>>();
        let bad = [bad(), bad()];
        let mut map = RegionMap::lost_whole(geometry.nr_regions());
        for region in 0..geometry.nr_regions() {
            if random.random_ratio(1, 3) {
                map.settle(region..region + 1, random.random());
            }
        }
        Self { geometry, piece_bytes, source, destination, bad, map }
    }

    /// The expected result by the rules, one region at a time.
    fn expected(&self) -> (RegionMap, [u64; 5], Vec<(u64, Side)>) {
        let mut map = self.map.clone();
        let mut counts = [0; 5];
        let mut unreadable = Vec::new();
        for region in self.map.lost().flatten() {
            let sectors = self.geometry.sectors_of(region..region + 1);
            let sectors: Vec<u64> = (sectors.start.0..sectors.end.0).collect();
            let (mut differs, mut nonzero, mut foreign, mut failed) = (false, false, false, None);
            for part in sectors.chunks(self.piece_bytes / 512) {
                let fails = |side: usize| part.iter().any(|at| self.bad[side].contains(at));
                failed = match (fails(0), fails(1)) {
                    (true, _) => Some(Side::Source),
                    (false, true) => Some(Side::Destination),
                    (false, false) => None,
                };
                if failed.is_some() {
                    break;
                }
                for &at in part {
                    let (from, to) = (self.source[at as usize], self.destination[at as usize]);
                    differs |= from != to;
                    nonzero |= to != 0;
                    foreign |= from != to && to != 0;
                }
                if foreign {
                    break;
                }
            }
            match failed {
                Some(side) => {
                    counts[4] += 1;
                    unreadable.push((region, side));
                }
                None if !differs => counts[0] += 1,
                None if foreign => counts[1] += 1,
                None => {
                    counts[2] += 1;
                    counts[3] += u64::from(nonzero);
                }
            }
            if failed.is_none() && (!differs || foreign) {
                map.settle(region..region + 1, true);
            }
        }
        (map, counts, unreadable)
    }
}

quickcheck! {
    fn what_is_decided_is_what_the_rules_say_region_by_region(seed: u64) -> TestResult {
        let mut chance = Chance::of(seed);
        let (map, expected, expected_unreadable) = chance.expected();
        let device = |content: &[u8], bad: &[u64]| {
            let content = content.to_owned();
            model(content.len() as u64, move |at| content[at as usize])
                .with_bad(bad.iter().copied())
        };
        let source = device(&chance.source, &chance.bad[0]);
        let destination = device(&chance.destination, &chance.bad[1]);
        let lost: Vec<RegionRange> = chance.map.lost().collect();
        let (steps, pieces) =
            (Steps::default(), Pieces::new(chance.geometry, chance.piece_bytes));
        let decided =
            decide_by_pieces(&mut chance.map, pieces, &source, &destination, &steps).unwrap();

        let told = decided.unreadable.iter();
        let told = told.flat_map(|run| run.regions.clone().map(|region| (region, run.side)));
        let is_lost = |sector: u64| {
            let region = sector / chance.geometry.region_size().sectors().0;
            lost.iter().any(|run| run.contains(&region))
        };
        let reads = source.reads().into_iter().chain(destination.reads());
        TestResult::from_bool(
            chance.map == map
                && counts(&decided) == expected
                && told.eq(expected_unreadable)
                && steps.done == steps.total
                && reads.flatten().all(is_lost)
                && source.largest_read() <= chance.piece_bytes as u64,
        )
    }
}
