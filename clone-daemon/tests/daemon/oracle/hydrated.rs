//! The regions that are known to be hydrated. They stay hydrated unless the daemon is killed.

use std::ops::Range;

use super::model::Moment;

const NEVER: Moment = Moment::MAX;

pub(super) struct Hydrated {
    size: u64,
    region: u64,
    /// For each region, the moment since which it is known.
    since: Vec<Moment>,
    /// The largest count, and its moment.
    most: (Moment, u64),
}

impl Hydrated {
    pub(super) fn new(size: u64, region: u64) -> Self {
        let regions = size.div_ceil(region) as usize;
        Self { size, region, since: vec![NEVER; regions], most: (0, 0) }
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.size, self.region);
    }

    fn touching(&self, range: &Range<u64>) -> Range<usize> {
        let end = range.end.div_ceil(self.region).min(self.since.len() as u64);
        (range.start / self.region) as usize..end as usize
    }

    /// Records a reply to a request submitted at `submitted`: `range` is hydrated, or it is not.
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

    /// Records the number of hydrated regions in a reply to a request submitted at `submitted`.
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
