//! The hydrated regions that metadata may show while a script runs, one operation after the other.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Result, ensure};

use crate::script::{Op, Regions};

/// A script, with the first operation that hydrates each region.
#[derive(Debug)]
pub struct History {
    first: BTreeMap<u64, usize>,
    operations: usize,
    /// For each operation, the number of operations up to the last flush before it.
    flushed: Vec<usize>,
}

/// Known progress of a script at some moment, as numbers of operations.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// This many operations were followed by a flush that has ended: they must be there.
    pub flushed: usize,
    /// This many operations may have begun: no others can be there.
    pub begun: usize,
    /// True if hydration runs beside them, so that any other region may be there.
    pub hydrating: bool,
}

impl History {
    /// Creates the history of a clone that has no hydrated region at first.
    pub fn new(regions: Regions, script: &[Op]) -> Self {
        let mut first = BTreeMap::new();
        let mut flushed = vec![0];
        for (nr, op) in script.iter().enumerate() {
            for region in regions.hydrated_by(op) {
                first.entry(region).or_insert(nr);
            }
            flushed.push(if *op == Op::Flush { nr + 1 } else { flushed[nr] });
        }
        Self { first, operations: script.len(), flushed }
    }

    /// Returns how many operations must be there when `ended` have ended.
    pub fn flushed(&self, ended: usize) -> usize {
        self.flushed[ended.min(self.operations)]
    }

    /// Returns how many regions the first `operations` operations hydrate.
    pub fn count(&self, operations: usize) -> u64 {
        self.first.values().filter(|nr| **nr < operations).count() as u64
    }

    /// Checks the hydrated regions of metadata: they must be those of a number of operations in
    /// order, plus some of the next one, which may be in flight. Returns the number.
    ///
    /// # Errors
    /// A region that cannot be there, or that is missing.
    pub fn judge(&self, dump: &[Range<u64>], known: Known) -> Result<usize> {
        let is_there = |region: u64| {
            let next = dump.partition_point(|run| run.end <= region);
            dump.get(next).is_some_and(|run| run.contains(&region))
        };
        let missing = self.first.iter().filter(|(region, _)| !is_there(**region));
        let absent = missing.min_by_key(|(_, nr)| **nr);
        let whole = absent.map_or(self.operations, |(_, nr)| *nr);
        ensure!(
            whole >= known.flushed,
            "{} operations were flushed, and region {:?} of operation {whole} is missing",
            known.flushed,
            absent.map(|(region, _)| region)
        );
        if known.hydrating {
            return Ok(whole);
        }
        for region in dump.iter().cloned().flatten() {
            let Some(&nr) = self.first.get(&region) else {
                anyhow::bail!("region {region} is hydrated by no operation");
            };
            ensure!(
                nr < known.begun && nr <= whole,
                "region {region} of operation {nr} is there; {} have begun, and region {:?} of \
                 operation {whole} is not there",
                known.begun,
                absent.map(|(region, _)| region)
            );
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::{History, Known};
    use crate::script::{Op, Regions};

    const REGIONS: Regions = Regions { size: 8, target: 800 };

    #[test]
    fn what_was_flushed_must_be_there_and_nothing_out_of_turn() {
        let script =
            [Op::Write(0..8, 1), Op::Flush, Op::Discard(16..32), Op::Write(80..81, 2), Op::Flush];
        let history = History::new(REGIONS, &script);
        assert_eq!([0, 1, 2, 4, 5].map(|ended| history.flushed(ended)), [0, 0, 2, 2, 5]);
        assert_eq!([0, 1, 3, 4].map(|operations| history.count(operations)), [0, 1, 3, 4]);
        let known = Known { flushed: 2, begun: 4, hydrating: false };
        let judge = |dump: &[_], known| history.judge(dump, known);
        assert_eq!(judge(&[0..1], known).ok(), Some(2));
        assert_eq!(judge(&[0..1, 3..4], known).ok(), Some(2), "a discard under way");
        assert_eq!(judge(&[0..1, 2..4, 10..11], known).ok(), Some(5));
        assert!(judge(&[2..4], known).is_err(), "the first is missing");
        assert!(judge(&[0..1, 10..11], known).is_err(), "out of turn");
        assert!(judge(&[0..2], known).is_err(), "nobody wrote region 1");
        let begun = |begun| Known { begun, ..known };
        assert!(judge(&[0..1, 2..4, 10..11], begun(3)).is_err(), "it has not begun");
        let hydrating = Known { hydrating: true, ..known };
        assert_eq!(judge(&[0..2, 10..20], hydrating).ok(), Some(2));
        assert!(judge(&[1..20], hydrating).is_err(), "the first is missing");
    }
}
