//! Which regions are hydrated, as read from metadata.

use std::iter;

use persistent_data::bitset::{BITS_PER_BLOCK, BITS_PER_WORD};
use zerocopy::little_endian as le;

use crate::geometry::RegionRange;
use crate::metadata::bits::{BitRuns, low_bits, set_bits};

pub use self::tally::Tally;

mod partly;
mod tally;

/// Words of an array block of the bitset.
const WORDS_PER_BLOCK: usize = (BITS_PER_BLOCK / BITS_PER_WORD) as usize;

/// What is known of the regions of one array block.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunk {
    /// Could not be read.
    Lost,
    /// None is hydrated.
    Zeroes,
    /// All are hydrated.
    Ones,
    /// Few runs of hydrated regions, half-open, counted from the first region of the block.
    Runs(Box<[(u16, u16)]>),
    /// Lowest region in the lowest bit; regions past the end of the clone are zero.
    Bits(Box<[u64]>),
    /// Some regions are lost, and not all.
    Partly(Box<Planes>),
}

/// Of each region of an array block, one bit in either: lowest region in the lowest bit. No region
/// is in both, and regions past the end of the clone are in neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planes {
    /// Known to be hydrated.
    pub(crate) hydrated: Box<[u64]>,
    /// Not known.
    pub(crate) lost: Box<[u64]>,
}

/// The most runs that take less room than the bits.
const RUNS_MAX: usize = WORDS_PER_BLOCK;

const _: () = assert!(BITS_PER_BLOCK <= u16::MAX as u64);

/// Which regions are hydrated, which are not, and of which it is not known.
///
/// It takes memory only where hydrated and other regions meet: four bytes a run, and at most a bit
/// a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionMap {
    nr_regions: u64,
    chunks: Vec<Chunk>,
}

/// Regions by what is known of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Hydrated,
    Other,
    Lost,
}

impl RegionMap {
    /// `nr_regions` regions of which nothing is known.
    pub(crate) fn lost_whole(nr_regions: u64) -> Self {
        let chunks = vec![Chunk::Lost; nr_regions.div_ceil(BITS_PER_BLOCK) as usize];
        Self { nr_regions, chunks }
    }

    /// How many regions there are.
    pub fn nr_regions(&self) -> u64 {
        self.nr_regions
    }

    /// How many array blocks their bitset has.
    pub(crate) fn nr_chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// The regions, half-open, of array block `chunk`.
    pub(crate) fn regions_of(&self, chunk: u64) -> RegionRange {
        let first = chunk * BITS_PER_BLOCK;
        first..(first + BITS_PER_BLOCK).min(self.nr_regions)
    }

    /// Puts in what array block `chunk` says.
    pub(crate) fn fill(&mut self, chunk: u64, words: &[le::U64], census: Census) {
        let regions = self.regions_of(chunk);
        let len = regions.end - regions.start;
        self.chunks[chunk as usize] = match census.hydrated {
            0 => Chunk::Zeroes,
            hydrated if hydrated == len => Chunk::Ones,
            _ => Chunk::of(words, len),
        };
    }

    /// How many regions are hydrated.
    pub fn hydrated(&self) -> u64 {
        (0..self.nr_chunks())
            .map(|index| match &self.chunks[index as usize] {
                Chunk::Lost | Chunk::Zeroes => 0,
                Chunk::Ones => {
                    let regions = self.regions_of(index);
                    regions.end - regions.start
                }
                Chunk::Runs(runs) => runs.iter().map(|&(begin, end)| u64::from(end - begin)).sum(),
                Chunk::Bits(words) => count_ones(words.iter().copied()),
                Chunk::Partly(planes) => count_ones(planes.hydrated.iter().copied()),
            })
            .sum()
    }

    /// The hydrated regions as maximal runs, ascending.
    pub fn runs(&self) -> impl Iterator<Item = RegionRange> + '_ {
        self.runs_of(State::Hydrated)
    }

    /// The regions that could not be read, as maximal runs, ascending.
    pub fn lost(&self) -> impl Iterator<Item = RegionRange> + '_ {
        self.runs_of(State::Lost)
    }

    /// Whether every region is known.
    pub fn is_whole(&self) -> bool {
        (0..self.nr_chunks()).all(|chunk| self.knows(chunk))
    }

    /// Takes every region that could not be read as hydrated, or as not.
    ///
    /// Either loses data if it is wrong: what is called hydrated is served from the destination,
    /// which may never have got it; what is not is copied from the source, over what was written.
    pub fn settle_lost(&mut self, hydrated: bool) {
        self.settle(0..self.nr_regions, hydrated);
    }

    /// The bits as words, lowest region in the lowest bit of the first, lost regions as zeroes.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.nr_chunks()).flat_map(|index| self.planes(index).hydrated)
    }

    fn runs_of(&self, wanted: State) -> impl Iterator<Item = RegionRange> + '_ {
        let mut pieces = self.pieces(wanted);
        let mut current: Option<RegionRange> = None;
        iter::from_fn(move || {
            loop {
                match (pieces.next(), current.take()) {
                    (Some(piece), Some(run)) if run.end == piece.start => {
                        current = Some(run.start..piece.end);
                    }
                    (Some(piece), Some(run)) => {
                        current = Some(piece);
                        return Some(run);
                    }
                    (Some(piece), None) => current = Some(piece),
                    (None, run) => return run,
                }
            }
        })
    }

    /// Runs that are cut where array blocks meet.
    fn pieces(&self, wanted: State) -> Pieces<'_> {
        Pieces {
            map: self,
            wanted,
            chunks: 0..self.nr_chunks(),
            first: 0,
            runs: [].iter(),
            bits: BitRuns::of(&[]),
        }
    }

    /// The runs in array block `chunk`.
    fn pieces_in(&self, chunk: u64, wanted: State) -> Pieces<'_> {
        Pieces { chunks: chunk..chunk + 1, ..self.pieces(wanted) }
    }
}

/// Runs of regions in one state, within array blocks.
struct Pieces<'a> {
    map: &'a RegionMap,
    wanted: State,
    /// Array blocks that have not been begun.
    chunks: RegionRange,
    /// Where the one that has been begun starts.
    first: u64,
    /// What is left of it, in whichever form it is kept.
    runs: std::slice::Iter<'a, (u16, u16)>,
    bits: BitRuns<'a>,
}

impl Iterator for Pieces<'_> {
    type Item = RegionRange;

    fn next(&mut self) -> Option<RegionRange> {
        loop {
            if let Some(&(begin, end)) = self.runs.next() {
                return Some(self.first + u64::from(begin)..self.first + u64::from(end));
            }
            if let Some(run) = self.bits.next() {
                return Some(self.first + run.start..self.first + run.end);
            }
            let chunk = self.chunks.next()?;
            let regions = self.map.regions_of(chunk);
            self.first = regions.start;
            let state = match &self.map.chunks[chunk as usize] {
                Chunk::Lost => State::Lost,
                Chunk::Zeroes => State::Other,
                Chunk::Ones => State::Hydrated,
                Chunk::Runs(runs) => {
                    if self.wanted == State::Hydrated {
                        self.runs = runs.iter();
                    }
                    continue;
                }
                Chunk::Bits(words) => {
                    if self.wanted == State::Hydrated {
                        self.bits = BitRuns::of(words);
                    }
                    continue;
                }
                Chunk::Partly(planes) => {
                    self.bits = match self.wanted {
                        State::Hydrated => BitRuns::of(&planes.hydrated),
                        State::Lost => BitRuns::of(&planes.lost),
                        State::Other => continue,
                    };
                    continue;
                }
            };
            if state == self.wanted {
                return Some(regions);
            }
        }
    }
}

impl Chunk {
    /// Some of the `len` regions in `words`.
    fn of(words: &[le::U64], len: u64) -> Self {
        if let Some(runs) = few_runs(words, len) {
            return Self::Runs(runs);
        }
        let mut bits: Box<[u64]> = words.iter().map(|word| word.get()).collect();
        if let Some((last, full)) = bits.split_last_mut() {
            *last &= low_bits(len - full.len() as u64 * BITS_PER_WORD);
        }
        Self::Bits(bits)
    }
}

/// The runs of ones among the first `len` bits of `words`, unless they are more than
/// [`RUNS_MAX`].
fn few_runs(words: &[le::U64], len: u64) -> Option<Box<[(u16, u16)]>> {
    let mut runs = Vec::new();
    let mut open: Option<u64> = None;
    let mut first = 0;
    for word in words {
        let word = word.get();
        // All-ones when a run goes on from the word before.
        let before = if open.is_some() { u64::MAX } else { 0 };
        if word != before {
            // A bit for each place where the bits change.
            let mut changes = word ^ (word << 1 | before & 1);
            if len - first < BITS_PER_WORD {
                changes &= low_bits(len - first);
            }
            while changes != 0 {
                let at = first + u64::from(changes.trailing_zeros());
                changes &= changes - 1;
                match open.take() {
                    Some(start) => runs.push((start as u16, at as u16)),
                    None => open = Some(at),
                }
            }
            if runs.len() > RUNS_MAX {
                return None;
            }
        }
        first += BITS_PER_WORD;
    }
    runs.extend(open.map(|start| (start as u16, len as u16)));
    Some(runs.into())
}

/// What the words of an array block amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    /// Hydrated regions.
    pub(crate) hydrated: u64,
    /// Whether a bit past the last region is set.
    pub(crate) trailing_bits: bool,
}

/// Counts the bits of an array block that holds `len` regions.
pub(crate) fn census(words: &[le::U64], len: u64) -> Census {
    assert!(words.len() <= WORDS_PER_BLOCK && words.len() as u64 == len.div_ceil(BITS_PER_WORD));
    let Some((last, full)) = words.split_last() else {
        return Census { hydrated: 0, trailing_bits: false };
    };
    let in_last = low_bits(len - full.len() as u64 * BITS_PER_WORD);
    let (any, all) =
        full.iter().fold((0, u64::MAX), |(any, all), word| (any | word.get(), all & word.get()));
    // Most array blocks are all zeroes or all ones; telling that is much cheaper than counting.
    let in_full = match (any, all) {
        (0, _) => 0,
        (_, u64::MAX) => full.len() as u64 * BITS_PER_WORD,
        _ => count_ones(full.iter().map(|word| word.get())),
    };
    Census {
        hydrated: in_full + u64::from((last.get() & in_last).count_ones()),
        trailing_bits: last.get() & !in_last != 0,
    }
}

fn count_ones(words: impl Iterator<Item = u64>) -> u64 {
    words.map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests;
