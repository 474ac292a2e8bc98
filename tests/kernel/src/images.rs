//! A model of the content of a clone's devices, sector by sector, and of the results of reads.
//! Unlike [`Model`](crate::script::Model), it covers the content of the destination below regions
//! that are not hydrated.

use std::ops::Range;

use clone_core::engine::Discards;

use crate::content::{Run, ZEROES, runs_of};
use crate::data::GARBAGE;
use crate::script::{Op, Regions, set};

/// The state of a clone after some operations.
#[derive(Clone, Debug)]
pub struct Images {
    regions: Regions,
    /// True if discards are passed down to a destination that turns them into zeroes.
    passdown: bool,
    /// Effect of discards on regions that are not hydrated.
    discards: Discards,
    /// The author of each sector of the source.
    pub source: Vec<u64>,
    /// The author of each sector of the destination. In a region that is not hydrated, the device
    /// may have another author.
    pub destination: Vec<u64>,
    /// True for each hydrated region.
    pub hydrated: Vec<bool>,
}

impl Images {
    /// Creates a clone with no hydrated region, and a destination of [`GARBAGE`].
    pub fn new(regions: Regions, source: Vec<u64>, passdown: bool) -> Self {
        Self {
            regions,
            passdown,
            discards: Discards::AsKernel,
            source,
            destination: vec![GARBAGE; regions.target as usize],
            hydrated: vec![false; regions.count() as usize],
        }
    }

    /// Returns the clone's regions.
    pub fn regions(&self) -> Regions {
        self.regions
    }

    /// Returns whether discards are passed down.
    pub fn passes_down(&self) -> bool {
        self.passdown
    }

    /// Sets whether discards are passed down.
    pub fn pass_down(&mut self, passdown: bool) {
        self.passdown = passdown;
    }

    /// Sets the effect of discards on regions that are not hydrated. By default they work as in the
    /// kernel, and show the content of the destination.
    pub fn discard_as(&mut self, discards: Discards) {
        self.discards = discards;
    }

    fn sectors_of(&self, regions: &Range<u64>) -> Range<usize> {
        let sector = |region: u64| (region * self.regions.size).min(self.regions.target) as usize;
        sector(regions.start)..sector(regions.end)
    }

    /// Applies the changes of `op`.
    pub fn apply(&mut self, op: &Op) {
        if let Some((sectors, seed)) = op.written() {
            self.hydrate(&self.regions.hydrated_by(op));
            self.destination[sectors.start as usize..sectors.end as usize].fill(seed);
        }
        let Op::Discard(discarded) = op else { return };
        let mut regions = self.regions.hydrated_by(op);
        let zeroes = self.discards == Discards::Zero;
        if zeroes && discarded.end == self.regions.target {
            // A covered short last region is included.
            let last = discarded.end.div_ceil(self.regions.size);
            regions.end = if discarded.start.div_ceil(self.regions.size) < last { last } else { 0 };
        }
        for region in regions {
            let is_hydrated = &mut self.hydrated[region as usize];
            let is_zeroed = self.passdown || zeroes && !*is_hydrated;
            *is_hydrated = true;
            if is_zeroed {
                let sectors = self.sectors_of(&(region..region + 1));
                self.destination[sectors].fill(ZEROES);
            }
        }
    }

    /// Copies the regions among `regions` that are not hydrated.
    pub fn hydrate(&mut self, regions: &Range<u64>) {
        for region in regions.clone() {
            if !self.hydrated[region as usize] {
                let sectors = self.sectors_of(&(region..region + 1));
                self.destination[sectors.clone()].copy_from_slice(&self.source[sectors]);
            }
        }
        set(&mut self.hydrated, regions);
    }

    /// Returns the result of a read of `sectors`.
    pub fn runs(&self, sectors: &Range<u64>) -> Vec<Run> {
        let author = |sector: u64| {
            let hydrated = self.hydrated[(sector / self.regions.size) as usize];
            let device = if hydrated { &self.destination } else { &self.source };
            device[sector as usize]
        };
        runs_of(sectors.start, sectors.clone().map(author))
    }
}

#[cfg(test)]
mod tests {
    use clone_core::engine::Discards;

    use super::Images;
    use crate::content::{SOURCE, ZEROES};
    use crate::data::GARBAGE;
    use crate::script::{Op, Regions};

    const REGIONS: Regions = Regions { size: 8, target: 28 };

    fn images(passdown: bool) -> Images {
        Images::new(REGIONS, vec![SOURCE; 28], passdown)
    }

    #[test]
    fn a_write_to_a_part_of_a_region_brings_the_rest_of_it() {
        let mut images = images(true);
        images.apply(&Op::Write(25..26, 1));
        assert_eq!(images.hydrated, [false, false, false, true]);
        assert_eq!(images.destination[22..28], [GARBAGE, GARBAGE, SOURCE, 1, SOURCE, SOURCE]);
        assert_eq!(images.runs(&(20..26)), [(20..25, Some(SOURCE)), (25..26, Some(1))]);
    }

    #[test]
    fn a_discard_shows_the_destination_or_makes_zeroes_of_it() {
        for (passdown, left) in [(true, ZEROES), (false, GARBAGE)] {
            let mut images = images(passdown);
            images.apply(&Op::Discard(7..28));
            assert_eq!(images.hydrated, [false, true, true, false]);
            let expected = [(7..8, Some(SOURCE)), (8..24, Some(left)), (24..25, Some(SOURCE))];
            assert_eq!(images.runs(&(7..25)), expected);
            images.apply(&Op::Write(9..10, 3));
            images.apply(&Op::Discard(8..16));
            let written = if passdown { ZEROES } else { 3 };
            assert_eq!(images.runs(&(9..10)), [(9..10, Some(written))]);
            assert_eq!(images.runs(&(8..9)), [(8..9, Some(left))]);
        }
    }

    #[test]
    fn a_discard_can_make_zeroes_of_what_is_not_hydrated() {
        let mut images = images(false);
        images.discard_as(Discards::Zero);
        images.apply(&Op::Write(8..16, 3));
        images.apply(&Op::Discard(8..27));
        assert_eq!(images.hydrated, [false, true, true, false]);
        images.apply(&Op::Discard(25..28));
        assert_eq!(images.hydrated, [false, true, true, false]);
        images.apply(&Op::Discard(23..28));
        assert_eq!(images.hydrated, [false, true, true, true]);
        let expected = [(0..8, Some(SOURCE)), (8..16, Some(3)), (16..28, Some(ZEROES))];
        assert_eq!(images.runs(&(0..28)), expected);
    }

    #[test]
    fn hydration_leaves_alone_what_is_hydrated() {
        let mut images = images(false);
        images.apply(&Op::Zero(8..16));
        images.hydrate(&(0..4));
        assert_eq!(images.hydrated, [true; 4]);
        let authors = [(0..8, Some(SOURCE)), (8..16, Some(ZEROES)), (16..28, Some(SOURCE))];
        assert_eq!(images.runs(&(0..28)), authors);
    }
}
