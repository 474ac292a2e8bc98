//! Which regions are known to be hydrated. They stay so, unless the daemon is killed.

use std::ops::Range;

use super::model::Moment;

const NEVER: Moment = Moment::MAX;

pub(super) struct Hydrated {
    size: u64,
    region: u64,
    /// Since when it is known of each.
    since: Vec<Moment>,
    /// The most that were counted, and when.
    most: (Moment, u64),
}

impl Hydrated {
    pub(super) fn new(size: u64, region: u64) -> Self {
        let regions = size.div_ceil(region) as usize;
        Self { size, region, since: vec![NEVER; regions], most: (0, 0) }
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.size, self.region);
    }

    fn touching(&self, range: &Range<u64>) -> Range<usize> {
        let end = range.end.div_ceil(self.region).min(self.since.len() as u64);
        (range.start / self.region) as usize..end as usize
    }

    /// Somebody who asked at `submitted` hears that `range` is hydrated, or that it is not.
    pub(super) fn told(
        &mut self,
        range: &Range<u64>,
        is_hydrated: bool,
        submitted: Moment,
        now: Moment,
    ) -> Result<(), String> {
        for region in self.touching(range) {
            let since = &mut self.since[region];
            if is_hydrated {
                *since = now.min(*since);
            } else if *since < submitted {
                return Err(format!(
                    "region {region} is said not to be hydrated at {submitted}, and was at {since}"
                ));
            }
        }
        Ok(())
    }

    /// Somebody who asked at `submitted` hears how many regions are hydrated.
    pub(super) fn counted(
        &mut self,
        count: u64,
        submitted: Moment,
        now: Moment,
    ) -> Result<(), String> {
        let (when, most) = self.most;
        if count < most && when < submitted {
            return Err(format!(
                "{count} regions are said to be hydrated at {submitted}, and {most} were at {when}"
            ));
        }
        if count > most {
            self.most = (now, count);
        }
        Ok(())
    }
}
