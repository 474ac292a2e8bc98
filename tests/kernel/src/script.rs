//! Operations on a block device, one after the other: a text that the host writes and the guest's
//! `block_io` performs.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::content::ZEROES;

/// An operation. All ranges are half-open, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes the [content](crate::content) of a seed, in one request.
    Write(Range<u64>, u64),
    /// Like [`Op::Write`], but the data is on the medium when the operation ends.
    DurableWrite(Range<u64>, u64),
    /// Writes zeroes, with a request that carries no data if the device supports that.
    Zero(Range<u64>),
    /// Reads, in one request.
    Read(Range<u64>),
    /// Discards.
    Discard(Range<u64>),
    /// Flushes, and waits for the answer.
    Flush,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(sectors, seed) => {
                write!(f, "write {} {} {seed}", sectors.start, sectors.end)
            }
            Self::DurableWrite(sectors, seed) => {
                write!(f, "durable-write {} {} {seed}", sectors.start, sectors.end)
            }
            Self::Zero(sectors) => write!(f, "zero {} {}", sectors.start, sectors.end),
            Self::Read(sectors) => write!(f, "read {} {}", sectors.start, sectors.end),
            Self::Discard(sectors) => write!(f, "discard {} {}", sectors.start, sectors.end),
            Self::Flush => write!(f, "flush"),
        }
    }
}

impl FromStr for Op {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.parse().with_context(|| format!("{line:?}"));
        let sectors = |start, end| anyhow::Ok(number(start)?..number(end)?);
        Ok(match *words {
            ["write", start, end, seed] => Self::Write(sectors(start, end)?, number(seed)?),
            ["durable-write", start, end, seed] => {
                Self::DurableWrite(sectors(start, end)?, number(seed)?)
            }
            ["zero", start, end] => Self::Zero(sectors(start, end)?),
            ["read", start, end] => Self::Read(sectors(start, end)?),
            ["discard", start, end] => Self::Discard(sectors(start, end)?),
            ["flush"] => Self::Flush,
            _ => bail!("{line:?} is no operation"),
        })
    }
}

impl Op {
    /// Returns the sectors that the operation writes, and the seed of their new content.
    pub fn written(&self) -> Option<(Range<u64>, u64)> {
        match self {
            Self::Write(sectors, seed) | Self::DurableWrite(sectors, seed) => {
                Some((sectors.clone(), *seed))
            }
            Self::Zero(sectors) => Some((sectors.clone(), ZEROES)),
            Self::Read(_) | Self::Discard(_) | Self::Flush => None,
        }
    }
}

/// Formats `ops` as text.
pub fn text(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

/// A clone's regions.
#[derive(Clone, Copy, Debug)]
pub struct Regions {
    /// Sectors per region.
    pub size: u64,
    /// Sectors of the clone.
    pub target: u64,
}

impl Regions {
    /// Returns the number of regions.
    pub fn count(self) -> u64 {
        self.target.div_ceil(self.size)
    }

    /// Returns the regions that `op` hydrates in the kernel's target: every region that a write
    /// touches, and every region that a discard covers wholly, but never the short last one.
    pub fn hydrated_by(self, op: &Op) -> Range<u64> {
        if let Op::Discard(sectors) = op {
            let begin = sectors.start.div_ceil(self.size);
            return begin..(sectors.end / self.size).max(begin);
        }
        let written = op.written();
        written
            .map_or(0..0, |(sectors, _)| sectors.start / self.size..sectors.end.div_ceil(self.size))
    }

    /// Returns a random operation: a write of one sector up to three regions, a discard of up to
    /// eight regions, or a flush. `seed` is the content of a write.
    pub fn random_op(self, rng: &mut StdRng, seed: u64) -> Op {
        let range = |rng: &mut StdRng, most: u64| {
            let start = rng.random_range(0..self.target);
            start..(start + rng.random_range(1..=most)).min(self.target)
        };
        match rng.random_range(0..10) {
            // The block layer splits at about 2 MiB, but `block_io` uses one buffer.
            0..7 => Op::Write(range(rng, (3 * self.size).min(1024)), seed),
            7 => Op::Discard(range(rng, 8 * self.size)),
            _ => Op::Flush,
        }
    }

    /// Returns `count` operations. Each write has its own seed, counted from `first_seed`.
    pub fn random_script(self, rng: &mut StdRng, count: usize, first_seed: u64) -> Vec<Op> {
        (first_seed..).take(count).map(|seed| self.random_op(rng, seed)).collect()
    }
}

/// The hydrated regions and the content of each sector after some operations.
#[derive(Clone, Debug)]
pub struct Model {
    regions: Regions,
    /// The author of each sector.
    pub sectors: Vec<u64>,
    /// True for each hydrated region.
    pub hydrated: Vec<bool>,
}

impl Model {
    /// Creates a clone of a source whose sectors all have the author `source`.
    pub fn new(regions: Regions, source: u64) -> Self {
        let sectors = vec![source; regions.target as usize];
        Self { regions, sectors, hydrated: vec![false; regions.count() as usize] }
    }

    /// Returns the clone's regions.
    pub fn regions(&self) -> Regions {
        self.regions
    }

    /// Applies the changes of `op`. Discarded sectors read as zeroes if the discard is passed down
    /// to a destination that zeroes them. Otherwise hydrated regions are unchanged, and other
    /// regions show the content of the destination.
    pub fn apply(&mut self, op: &Op) {
        let regions = self.regions.hydrated_by(op);
        if let Some((sectors, seed)) = op.written() {
            self.sectors[sectors.start as usize..sectors.end as usize].fill(seed);
        } else if !regions.is_empty() {
            let (begin, end) = (regions.start * self.regions.size, regions.end * self.regions.size);
            self.sectors[begin as usize..end as usize].fill(ZEROES);
        }
        set(&mut self.hydrated, &regions);
    }

    /// Returns the hydrated regions in maximal, half-open runs.
    pub fn runs(&self) -> Vec<Range<u64>> {
        runs(&self.hydrated)
    }
}

/// Sets the bits of `range`, which may be empty at any position.
pub fn set(bits: &mut [bool], range: &Range<u64>) {
    if !range.is_empty() {
        bits[range.start as usize..range.end as usize].fill(true);
    }
}

/// Returns the maximal, half-open runs of set bits.
pub fn runs(bits: &[bool]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (nr, _) in (0..).zip(bits).filter(|(_, bit)| **bit) {
        match runs.last_mut() {
            Some(run) if run.end == nr => run.end += 1,
            _ => runs.push(nr..nr + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::{Model, Op, Regions};
    use crate::content::{SOURCE, ZEROES};

    const REGIONS: Regions = Regions { size: 8, target: 100 };

    #[test]
    fn an_operation_is_read_back_as_it_was_written() {
        let writes = [Op::Write(3..9, u64::MAX), Op::DurableWrite(4..5, 1), Op::Zero(0..7)];
        let others = [Op::Read(1..2), Op::Discard(0..100), Op::Flush];
        for op in writes.into_iter().chain(others) {
            assert_eq!(op.to_string().parse::<Op>().expect("an operation"), op);
        }
        assert!("write 1 2".parse::<Op>().is_err());
    }

    #[test]
    fn a_write_hydrates_what_it_touches_and_a_discard_what_it_covers() {
        assert_eq!(REGIONS.count(), 13);
        assert_eq!(REGIONS.hydrated_by(&Op::Write(7..9, 1)), 0..2);
        assert_eq!(REGIONS.hydrated_by(&Op::Write(96..97, 1)), 12..13);
        assert_eq!(REGIONS.hydrated_by(&Op::DurableWrite(96..97, 1)), 12..13);
        assert_eq!(REGIONS.hydrated_by(&Op::Zero(0..8)), 0..1);
        assert!(REGIONS.hydrated_by(&Op::Read(0..100)).is_empty());
        assert_eq!(REGIONS.hydrated_by(&Op::Discard(1..24)), 1..3);
        assert_eq!(REGIONS.hydrated_by(&Op::Discard(1..7)), 1..1);
        // The target never counts the short last region as covered.
        assert_eq!(REGIONS.hydrated_by(&Op::Discard(88..100)), 11..12);
    }

    #[test]
    fn the_model_knows_the_last_author() {
        let mut model = Model::new(REGIONS, SOURCE);
        model.apply(&Op::Write(6..10, 1));
        model.apply(&Op::Discard(8..16));
        assert_eq!(model.sectors[5..11], [SOURCE, 1, 1, ZEROES, ZEROES, ZEROES]);
        assert_eq!(model.runs(), [0..2]);
        // It covers no region, and no region exists at that position.
        model.apply(&Op::Discard(97..100));
        assert_eq!(model.runs(), [0..2]);
    }
}
