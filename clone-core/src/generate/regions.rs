//! A set of regions.

use fixedbitset::FixedBitSet;

use crate::geometry::RegionRange;

/// A set of regions of a clone, with one bit of memory per region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    bits: FixedBitSet,
    count: u64,
}

impl Regions {
    /// Returns the empty set for `nr_regions`.
    pub(super) fn none(nr_regions: u64) -> Self {
        Self { bits: FixedBitSet::with_capacity(nr_regions as usize), count: 0 }
    }

    /// Returns the number of regions of the clone.
    pub fn nr_regions(&self) -> u64 {
        self.bits.len() as u64
    }

    /// Returns the number of regions in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns whether `region` is in the set. False for a region past the end.
    pub fn contains(&self, region: u64) -> bool {
        usize::try_from(region).is_ok_and(|region| self.bits.contains(region))
    }

    /// Returns the set as maximal runs, half-open, ascending.
    pub fn runs(&self) -> impl Iterator<Item = RegionRange> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let end = self.nr_regions();
            let start = self.next(at..end);
            at = self.next_absent(start..end);
            (start < end).then_some(start..at)
        })
    }

    /// Returns how many regions of `within` are in the set.
    pub(super) fn count_in(&self, within: RegionRange) -> u64 {
        self.bits.count_ones(within.start as usize..within.end as usize) as u64
    }

    /// Inserts regions, none of which may be in the set.
    pub(super) fn insert(&mut self, run: RegionRange) {
        self.count += run.end - run.start;
        self.bits.insert_range(run.start as usize..run.end as usize);
    }

    /// Removes regions, all of which must be in the set.
    pub(super) fn remove(&mut self, run: RegionRange) {
        self.count -= run.end - run.start;
        self.bits.remove_range(run.start as usize..run.end as usize);
    }

    /// Returns the first region of `within` in the set, or the end of `within` if there is none.
    pub(super) fn next(&self, within: RegionRange) -> u64 {
        self.seek(within, 0)
    }

    /// Returns the first region of `within` not in the set, or the end of `within` if all are.
    pub(super) fn next_absent(&self, within: RegionRange) -> u64 {
        self.seek(within, usize::MAX)
    }

    /// Returns the first bit of `within` that is set after each word is XORed with `flip`.
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
