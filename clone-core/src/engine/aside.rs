//! Regions that could not be copied, until it is time to try them again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::geometry::RegionRange;

/// How long the first wait is, and the longest: each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// The most places that are kept.
pub(super) const PLACES_MAX: usize = 4096;

/// What is set aside. Places do not overlap.
#[derive(Debug, Default)]
pub(super) struct Aside {
    by_start: BTreeMap<u64, Place>,
}

#[derive(Clone, Debug)]
struct Place {
    end: u64,
    due: Duration,
    wait: Duration,
}

impl Aside {
    /// Sets `regions` aside: halves of what failed as a whole are due at once, what failed alone
    /// has to wait, the longer the more often it did.
    pub(super) fn add(&mut self, now: Duration, regions: RegionRange) {
        let RegionRange { start, end } = regions;
        // The place of a region that is tried again is still there, and knows how long it waited.
        let known = self.take_within(regions);
        if end - start > 1 {
            let middle = start + (end - start) / 2;
            for half in [start..middle, middle..end] {
                let place = Place { end: half.end, due: now, wait: Duration::ZERO };
                self.by_start.insert(half.start, place);
            }
        } else {
            let wait = known.map_or(Duration::ZERO, |place| place.wait);
            let wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            self.by_start.insert(start, Place { end, due: now + wait, wait });
        }
    }

    /// Forgets what was set aside within `regions`, which were copied.
    pub(super) fn remove(&mut self, regions: RegionRange) {
        if !self.by_start.is_empty() {
            self.take_within(regions);
        }
    }

    /// Makes all of it due.
    pub(super) fn make_due(&mut self, now: Duration) {
        for place in self.by_start.values_mut() {
            *place = Place { end: place.end, due: now, wait: Duration::ZERO };
        }
    }

    /// The places that are due, ascending.
    pub(super) fn due(&self, now: Duration) -> impl Iterator<Item = RegionRange> + '_ {
        let places = self.by_start.iter().filter(move |(_, place)| place.due <= now);
        places.map(|(&start, place)| start..place.end)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.by_start.values().map(|place| place.due).min()
    }

    /// Of the regions from `region` on: the end of the place that it is in, or else where the next
    /// one begins.
    pub(super) fn look(&self, region: u64) -> (Option<u64>, u64) {
        let before = self.by_start.range(..=region).next_back();
        let inside = before.map(|(_, place)| place.end).filter(|&end| region < end);
        let next = self.by_start.range(region + 1..).next().map_or(u64::MAX, |(&start, _)| start);
        (inside, next)
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Takes out the part of all places that lies within `regions`; one of these places.
    fn take_within(&mut self, regions: RegionRange) -> Option<Place> {
        let mut one = None;
        let before = self.by_start.range(..regions.start).next_back();
        let first = before.filter(|(_, place)| place.end > regions.start).map(|(&start, _)| start);
        let inside = self.by_start.range(regions.clone()).map(|(&start, _)| start);
        let starts: Vec<u64> = first.into_iter().chain(inside).collect();
        for start in starts {
            let Some(place) = self.by_start.remove(&start) else { continue };
            if start < regions.start {
                self.by_start.insert(start, Place { end: regions.start, ..place.clone() });
            }
            if place.end > regions.end {
                self.by_start.insert(regions.end, place.clone());
            }
            one = Some(place);
        }
        one
    }
}
