//! A set of regions.

use fixedbitset::FixedBitSet;

use crate::geometry::RegionRange;

/// Some of the regions of a clone, a bit of memory for each region that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    bits: FixedBitSet,
    count: u64,
}

impl Regions {
    /// None of `nr_regions`.
    pub(super) fn none(nr_regions: u64) -> Self {
        Self { bits: FixedBitSet::with_capacity(nr_regions as usize), count: 0 }
    }

    /// How many regions the clone has.
    pub fn nr_regions(&self) -> u64 {
        self.bits.len() as u64
    }

    /// How many are in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether `region` is in the set. Not, if there is no such region.
    pub fn contains(&self, region: u64) -> bool {
        usize::try_from(region).is_ok_and(|region| self.bits.contains(region))
    }

    /// The set as maximal runs, half-open, ascending.
    pub fn runs(&self) -> impl Iterator<Item = RegionRange> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let end = self.nr_regions();
            let start = self.next(at..end);
            at = self.next_absent(start..end);
            (start < end).then_some(start..at)
        })
    }

    /// How many of `within` are in the set.
    pub(super) fn count_in(&self, within: RegionRange) -> u64 {
        self.bits.count_ones(within.start as usize..within.end as usize) as u64
    }

    /// Puts in regions of which none is in the set yet.
    pub(super) fn insert(&mut self, run: RegionRange) {
        self.count += run.end - run.start;
        self.bits.insert_range(run.start as usize..run.end as usize);
    }

    /// Takes out regions that are all in the set.
    pub(super) fn remove(&mut self, run: RegionRange) {
        self.count -= run.end - run.start;
        self.bits.remove_range(run.start as usize..run.end as usize);
    }

    /// The first region of `within` that is in the set; the end of `within` if none is.
    pub(super) fn next(&self, within: RegionRange) -> u64 {
        self.seek(within, 0)
    }

    /// The first region of `within` that is not in the set; the end of `within` if all are.
    pub(super) fn next_absent(&self, within: RegionRange) -> u64 {
        self.seek(within, usize::MAX)
    }

    /// The first bit of `within` that is set, once all bits are flipped that `flip` has.
    fn seek(&self, within: RegionRange, flip: usize) -> u64 {
        let per_slice = u64::from(usize::BITS);
        let slices = self.bits.as_slice();
        let mut at = within.start;
        while at < within.end {
            let wanted = (slices[(at / per_slice) as usize] ^ flip) >> (at % per_slice);
            if wanted != 0 {
                return within.end.min(at + u64::from(wanted.trailing_zeros()));
            }
            at = (at / per_slice + 1) * per_slice;
        }
        within.end
    }
}

#[cfg(test)]
mod tests {
    use super::Regions;
    use crate::geometry::RegionRange;

    #[test]
    fn what_was_put_in_and_not_taken_out_comes_back_as_maximal_runs() {
        let mut regions = Regions::none(200);
        for run in [0..3, 3..5, 63..64, 64..128, 199..200] {
            regions.insert(run);
        }
        let runs = |regions: &Regions| regions.runs().collect::<Vec<RegionRange>>();
        assert_eq!(runs(&regions), [0..5, 63..128, 199..200]);
        regions.remove(100..128);
        regions.remove(0..1);
        assert_eq!(runs(&regions), [1..5, 63..100, 199..200]);
        assert_eq!(regions.count(), 42);
        assert_eq!(regions.count_in(4..64), 2);
        assert!(regions.contains(199) && !regions.contains(0) && !regions.contains(200));
        assert_eq!(runs(&Regions::none(64)), []);
    }

    #[test]
    fn a_search_stays_in_its_range() {
        let mut regions = Regions::none(130);
        regions.insert(70..128);
        assert_eq!(regions.next(0..130), 70);
        assert_eq!(regions.next(0..70), 70);
        assert_eq!(regions.next(0..66), 66);
        assert_eq!(regions.next(100..130), 100);
        assert_eq!(regions.next(128..130), 130);
        assert_eq!(regions.next_absent(70..130), 128);
        assert_eq!(regions.next_absent(70..100), 100);
        assert_eq!(regions.next_absent(3..100), 3);
    }
}
