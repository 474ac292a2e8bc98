//! Failed regions: regions that could not be copied, with the time of their next attempt.
//!
//! Hydration adds regions when a copy fails, and takes the due ones from here.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;
use std::time::Duration;

use crate::engine::api::input::Failure;
use crate::geometry::RegionRange;

/// First and longest back-off; each wait is twice the previous one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// Maximum number of entries.
const PLACES_MAX: usize = 4096;

/// Failed regions that are tried again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRegion {
    /// The regions, a half-open range.
    pub regions: RegionRange,
    /// Number of failed attempts to copy these regions alone. 0 if they failed only as part of a
    /// larger copy.
    pub tries: u32,
    /// The last failure.
    pub failure: Failure,
}

/// The failed regions. *Invariant:* entries do not overlap.
#[derive(Debug, Default)]
pub(in crate::engine) struct FailedRegions {
    by_start: BTreeMap<u64, FailedPlace>,
    /// Due time and start of each entry.
    by_due: BTreeSet<(Duration, u64)>,
}

#[derive(Clone, Debug)]
struct FailedPlace {
    end: u64,
    due: Duration,
    wait: Duration,
    tries: u32,
    failure: Failure,
}

impl FailedRegions {
    /// Adds failed `regions`. After a failed copy of several regions both halves are due at once; a
    /// single region backs off, longer after each failure.
    pub(in crate::engine) fn add(&mut self, now: Duration, regions: RegionRange, failure: Failure) {
        let RegionRange { start, end } = regions;
        // The entry of a retried region is still there, and holds its last wait.
        let known = self.take_within(regions);
        if end - start > 1 {
            let middle = start + (end - start) / 2;
            self.add_due(now, start..middle, failure.clone());
            self.add_due(now, middle..end, failure);
        } else {
            let (wait, tries) =
                known.map_or((Duration::ZERO, 0), |place| (place.wait, place.tries));
            let wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            let tries = tries.saturating_add(1);
            self.insert(start, FailedPlace { end, due: now + wait, wait, tries, failure });
        }
    }

    /// Adds `regions` that failed under another claim; they are due at once.
    pub(in crate::engine) fn add_due(
        &mut self,
        now: Duration,
        regions: RegionRange,
        failure: Failure,
    ) {
        self.take_within(regions.clone());
        let place =
            FailedPlace { end: regions.end, due: now, wait: Duration::ZERO, tries: 0, failure };
        self.insert(regions.start, place);
    }

    /// Removes all entries within `regions`.
    pub(in crate::engine) fn remove(&mut self, regions: RegionRange) {
        if !self.by_start.is_empty() {
            self.take_within(regions);
        }
    }

    /// Makes all entries due.
    pub(in crate::engine) fn make_due(&mut self, now: Duration) {
        for (start, mut place) in mem::take(self).by_start {
            (place.due, place.wait) = (now, Duration::ZERO);
            self.insert(start, place);
        }
    }

    /// Returns the due entries, earliest due time first.
    pub(in crate::engine) fn due(&self, now: Duration) -> impl Iterator<Item = RegionRange> + '_ {
        let due = self.by_due.range(..=(now, u64::MAX));
        due.map(|&(_, start)| start..self.by_start[&start].end)
    }

    /// Returns the first due time after `now`.
    pub(in crate::engine) fn next_due(&self, now: Duration) -> Option<Duration> {
        let later = self.by_due.range((Bound::Excluded((now, u64::MAX)), Bound::Unbounded));
        later.map(|&(due, _)| due).next()
    }

    /// Returns the end of the entry that contains `region`, if any, and the start of the next entry
    /// after `region`, or `u64::MAX`.
    pub(in crate::engine) fn look(&self, region: u64) -> (Option<u64>, u64) {
        let before = self.by_start.range(..=region).next_back();
        let inside = before.map(|(_, place)| place.end).filter(|&end| region < end);
        let next = self.by_start.range(region + 1..).next().map_or(u64::MAX, |(&start, _)| start);
        (inside, next)
    }

    /// Returns all entries in ascending order.
    pub(in crate::engine) fn places(&self) -> impl Iterator<Item = FailedRegion> + '_ {
        self.by_start.iter().map(|(&start, place)| FailedRegion {
            regions: start..place.end,
            tries: place.tries,
            failure: place.failure.clone(),
        })
    }

    /// Returns true if the number of entries has reached the limit.
    pub(in crate::engine) fn is_full(&self) -> bool {
        self.by_start.len() >= PLACES_MAX
    }

    fn insert(&mut self, start: u64, place: FailedPlace) {
        self.by_due.insert((place.due, start));
        self.by_start.insert(start, place);
    }

    /// Removes the parts of all entries that lie within `regions`, and returns one affected entry.
    fn take_within(&mut self, regions: RegionRange) -> Option<FailedPlace> {
        let mut one = None;
        let before = self.by_start.range(..regions.start).next_back();
        let first = before.filter(|(_, place)| place.end > regions.start).map(|(&start, _)| start);
        let inside = self.by_start.range(regions.clone()).map(|(&start, _)| start);
        let starts: Vec<u64> = first.into_iter().chain(inside).collect();
        for start in starts {
            let Some(place) = self.by_start.remove(&start) else { continue };
            self.by_due.remove(&(place.due, start));
            if start < regions.start {
                self.insert(start, FailedPlace { end: regions.start, ..place.clone() });
            }
            if place.end > regions.end {
                self.insert(regions.end, place.clone());
            }
            one = Some(place);
        }
        one
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quickcheck::quickcheck;

    use super::FailedRegions;
    use crate::engine::{Device, Failure};
    use crate::geometry::RegionRange;

    const SECOND: Duration = Duration::from_secs(1);

    impl FailedRegions {
        fn failed(&mut self, now: Duration, regions: RegionRange) {
            self.add(
                now,
                regions,
                Failure { device: Device::Source, reason: String::new(), is_full: false },
            );
        }
    }

    #[test]
    fn a_batch_is_tried_in_halves_at_once_and_a_region_alone_later_and_later() {
        let mut failed = FailedRegions::default();
        failed.failed(SECOND, 8..16);
        assert!(failed.due(SECOND).eq([8..12, 12..16]));
        failed.remove(8..12);
        failed.failed(SECOND, 12..14);
        failed.remove(14..16);
        failed.remove(13..14);
        failed.failed(SECOND, 12..13);
        let (mut now, mut tries) = (SECOND, 0);
        for wait in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert_eq!(failed.next_due(now), Some(now + wait * SECOND));
            tries += 1;
            let places: Vec<_> =
                failed.places().map(|place| (place.regions, place.tries)).collect();
            assert_eq!(places, [(12..13, tries)]);
            now += wait * SECOND;
            assert!(failed.due(now).eq([12..13]));
            failed.failed(now, 12..13);
        }
        failed.make_due(now);
        assert!(failed.due(now).eq([12..13]));
        failed.failed(now, 12..13);
        assert_eq!(failed.next_due(now), Some(now + SECOND));
    }

    quickcheck! {
        fn failed_regions_were_added_and_not_removed(changes: Vec<(u8, u8, bool)>) -> bool {
            let (mut failed, mut model) = (FailedRegions::default(), [false; 512]);
            for (start, len, add) in changes {
                let (start, end) = (u64::from(start), u64::from(start) + u64::from(len) + 1);
                if add { failed.failed(SECOND, start..end) } else { failed.remove(start..end) }
                model[start as usize..end as usize].fill(add);
            }
            (0..511).all(|at: u64| {
                let (inside, next) = failed.look(at);
                let next_in_model = (at + 1..512).find(|&at| model[at as usize]);
                inside.is_some() == model[at as usize]
                    && inside.is_none_or(|end| (at..end).all(|at| model[at as usize]))
                    && (inside.is_some() || next == next_in_model.unwrap_or(u64::MAX))
            })
        }
    }
}
