//! Random requests of all kinds and sizes, for a clone that gets one request at a time.

use std::ops::Range;

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::script::{Op, Regions};

/// Maximum number of sectors of a request.
const LONGEST: u64 = 4096;

/// A generator of requests.
#[derive(Debug)]
pub struct Requests {
    regions: Regions,
    rng: StdRng,
    /// The seed of the next write.
    next_seed: u64,
}

impl Requests {
    /// Creates a generator of requests to a clone. Each write has its own seed.
    pub fn new(regions: Regions, rng: StdRng) -> Self {
        Self { regions, rng, next_seed: 1 }
    }

    /// Returns a random number.
    pub fn number(&mut self, range: Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    /// Returns `count` random operations, without discards unless `with_discards` is set.
    pub fn ops(&mut self, count: u64, with_discards: bool) -> Vec<Op> {
        (0..count).map(|_| self.op(with_discards)).collect()
    }

    fn op(&mut self, with_discards: bool) -> Op {
        let sectors = self.sectors();
        let seed = self.next_seed;
        self.next_seed += 1;
        match self.number(0..20) {
            0..7 => Op::Write(sectors, seed),
            7..9 => Op::DurableWrite(sectors, seed),
            9..11 => Op::Zero(sectors),
            // A discard that covers no whole region does nothing.
            11 | 12 if with_discards => Op::Discard(self.whole_regions()),
            13 if with_discards => Op::Discard(sectors),
            18.. => Op::Flush,
            _ => Op::Read(sectors),
        }
    }

    /// Returns parts of a region, whole regions, the end of the clone, or any sectors.
    fn sectors(&mut self) -> Range<u64> {
        let Regions { size, target } = self.regions;
        let region = self.number(0..self.regions.count());
        let begin = region * size;
        let sectors = match self.number(0..6) {
            0 | 1 => {
                let start = begin + self.number(0..size.min(target - begin));
                start..start + 1 + self.number(0..begin + size - start)
            }
            2 => return self.whole_regions(),
            3 => target.saturating_sub(1 + self.number(0..2 * size))..target,
            4 => {
                let last = (target - 1) / size * size;
                last..last + size
            }
            _ => {
                let start = self.number(0..target);
                start..start + 1 + self.number(0..target / 3)
            }
        };
        self.cut(sectors)
    }

    /// Returns the sectors of some whole regions, cut off at the end of the clone.
    fn whole_regions(&mut self) -> Range<u64> {
        let size = self.regions.size;
        let begin = self.number(0..self.regions.count()) * size;
        let end = begin + (1 + self.number(0..4)) * size;
        self.cut(begin..end)
    }

    fn cut(&self, sectors: Range<u64>) -> Range<u64> {
        sectors.start..sectors.end.min(self.regions.target).min(sectors.start + LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{LONGEST, Requests};
    use crate::script::{Op, Regions};

    #[test]
    fn requests_are_of_every_kind_and_lie_within_the_clone() {
        for regions in [Regions { size: 8, target: 900 }, Regions { size: 256, target: 5000 }] {
            let mut requests = Requests::new(regions, StdRng::seed_from_u64(1));
            let ops = requests.ops(2000, true);
            let is_inside = |op: &Op| match op {
                Op::Read(sectors) | Op::Discard(sectors) => Some(sectors.clone()),
                op => op.written().map(|(sectors, _)| sectors),
            };
            for sectors in ops.iter().filter_map(is_inside) {
                assert!(sectors.start < sectors.end && sectors.end <= regions.target);
                assert!(sectors.end - sectors.start <= LONGEST);
            }
            let count = |is: fn(&Op) -> bool| ops.iter().filter(|op| is(op)).count();
            assert!(count(|op| matches!(op, Op::Discard(_))) > 100);
            assert!(count(|op| matches!(op, Op::Flush)) > 100);
            assert!(count(|op| matches!(op, Op::DurableWrite(..) | Op::Zero(_))) > 200);
            let ops = requests.ops(500, false);
            assert!(!ops.iter().any(|op| matches!(op, Op::Discard(_))));
        }
    }
}
