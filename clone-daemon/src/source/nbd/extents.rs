//! A cache of the extents that the server reported. `NbdRemote` fills it and clears it when
//! a connection was lost.

use std::collections::BTreeMap;

use clone_core::block_io::Extent;

use crate::source::nbd::reply::Run;

/// Extents that the server reported.
#[derive(Default)]
pub(super) struct Extents {
    /// Extents by their start. They do not overlap.
    known: BTreeMap<u64, Extent>,
    /// Number of times that the cache was cleared.
    age: u64,
}

/// Maximum number of extents. One reply can hold more; the rest of it is dropped.
const KEPT_MAX: usize = 1 << 16;

impl Extents {
    /// Returns the known extent that contains `offset`.
    pub(super) fn find(&self, offset: u64) -> Option<Extent> {
        let (_, extent) = self.known.range(..=offset).next_back()?;
        (offset < extent.end).then_some(*extent)
    }

    /// Returns the current age; see [`Self::add`].
    pub(super) fn age(&self) -> u64 {
        self.age
    }

    /// Removes all extents and starts a new age.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.age += 1;
    }

    /// Adds the extents `runs` that begin at `start`, clipped to `size`. `age` is the age at the
    /// time of the request: if the cache was cleared since then, nothing is added.
    pub(super) fn add(&mut self, age: u64, start: u64, runs: &[Run], size: u64) {
        if age != self.age {
            return;
        }
        let mut begin = start;
        let mut runs = runs.iter().peekable();
        while let Some(run) = runs.next()
            && begin < size
        {
            let mut end = begin.saturating_add(run.len);
            while let Some(next) = runs.next_if(|next| next.zeroes == run.zeroes) {
                end = end.saturating_add(next.len);
            }
            if self.known.len() >= KEPT_MAX {
                self.known.clear();
            }
            // Extents that another caller added in the meantime are as good, but must not overlap.
            self.make_room(begin, end);
            self.known.insert(begin, Extent { zeroes: run.zeroes, end: end.min(size) });
            begin = end;
            if self.known.len() >= KEPT_MAX {
                break;
            }
        }
    }

    fn make_room(&mut self, begin: u64, end: u64) {
        if let Some((_, before)) = self.known.range_mut(..begin).next_back() {
            before.end = before.end.min(begin);
        }
        while let Some((&at, _)) = self.known.range(begin..end).next() {
            self.known.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use clone_core::block_io::Extent;

    use super::{Extents, KEPT_MAX};
    use crate::source::nbd::reply::Run;

    fn runs(lengths: &[(u64, bool)]) -> Vec<Run> {
        lengths.iter().map(|&(len, zeroes)| Run { len, zeroes }).collect()
    }

    #[test]
    fn what_was_told_is_found_and_neighbours_are_one() {
        let mut extents = Extents::default();
        assert_eq!(extents.find(0), None);
        extents.add(0, 100, &runs(&[(50, true), (50, true), (100, false), (999, true)]), 400);
        assert_eq!(extents.find(99), None);
        assert_eq!(extents.find(100), Some(Extent { zeroes: true, end: 200 }));
        assert_eq!(extents.find(199), Some(Extent { zeroes: true, end: 200 }));
        assert_eq!(extents.find(200), Some(Extent { zeroes: false, end: 300 }));
        assert_eq!(extents.find(399), Some(Extent { zeroes: true, end: 400 }));
        assert_eq!(extents.find(400), None);
        extents.add(0, 150, &runs(&[(100, false)]), 400);
        assert_eq!(extents.find(149), Some(Extent { zeroes: true, end: 150 }));
        assert_eq!(extents.find(249), Some(Extent { zeroes: false, end: 250 }));
        assert_eq!(extents.find(250), None, "the one that began at 200 is gone");
    }

    #[test]
    fn what_is_from_before_a_new_connection_is_not_used() {
        let mut extents = Extents::default();
        let age = extents.age();
        extents.add(age, 0, &runs(&[(100, true)]), 100);
        extents.clear();
        assert_eq!(extents.find(0), None);
        extents.add(age, 0, &runs(&[(100, true)]), 100);
        assert_eq!(extents.find(0), None);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut extents = Extents::default();
        let many: Vec<_> = (0..3 * KEPT_MAX).map(|at| (1, at % 2 == 0)).collect();
        extents.add(0, 0, &runs(&many), 1 << 40);
        assert!(extents.find(0).is_some(), "it is what was asked for");
        extents.add(0, 1 << 30, &runs(&many), 1 << 40);
        assert!(extents.find(1 << 30).is_some());
        assert!(extents.known.len() <= KEPT_MAX);
    }
}
