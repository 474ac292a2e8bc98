//! The hydrated regions of a clone, as read from its metadata. The check fills the map.

use std::iter;

use persistent_data::bitset::{BITS_PER_BLOCK, BITS_PER_WORD, low_bits, nr_array_blocks, nr_words};
use zerocopy::little_endian as le;

use crate::geometry::RegionRange;
use crate::metadata::bits::{BitRuns, set_bits};

pub use self::tally::Tally;

mod partly;
mod tally;

/// Words in an array block of the bitset.
const WORDS_PER_BLOCK: usize = (BITS_PER_BLOCK / BITS_PER_WORD) as usize;

/// The known state of the regions of one array block.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunk {
    /// The block could not be read.
    Lost,
    /// No region is hydrated.
    Zeroes,
    /// All regions are hydrated.
    Ones,
    /// Few runs of hydrated regions, half-open, relative to the first region of the block.
    Runs(Box<[(u16, u16)]>),
    /// The bits, lowest region in the lowest bit. Bits past the end of the clone are zero.
    Bits(Box<[u64]>),
    /// Some regions are lost, but not all.
    Partly(Box<Planes>),
}

/// Two bits per region of an array block, one in each plane, the lowest region in the lowest bit.
/// *Invariant:* no region is set in both planes, and no bit past the end of the clone in either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planes {
    /// Regions that are known to be hydrated.
    pub(crate) hydrated: Box<[u64]>,
    /// Regions whose state is not known.
    pub(crate) lost: Box<[u64]>,
}

/// Maximum number of runs that take less memory than the bits.
const RUNS_MAX: usize = WORDS_PER_BLOCK;

const _: () = assert!(BITS_PER_BLOCK <= u16::MAX as u64);

/// The state of every region: hydrated, not hydrated, or lost.
///
/// It takes memory only where the state changes: four bytes per run, and at most one bit per
/// region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionMap {
    nr_regions: u64,
    chunks: Vec<Chunk>,
}

/// State of a region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Hydrated,
    Other,
    Lost,
}

impl RegionMap {
    /// Creates a map of `nr_regions` regions that are all lost.
    pub(crate) fn lost_whole(nr_regions: u64) -> Self {
        let chunks = vec![Chunk::Lost; nr_array_blocks(nr_regions) as usize];
        Self { nr_regions, chunks }
    }

    /// Returns the number of regions.
    pub fn nr_regions(&self) -> u64 {
        self.nr_regions
    }

    /// Returns the number of array blocks of the bitset.
    pub(crate) fn nr_chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Returns the regions, half-open, of array block `chunk`.
    pub(crate) fn regions_of(&self, chunk: u64) -> RegionRange {
        let first = chunk * BITS_PER_BLOCK;
        first..(first + BITS_PER_BLOCK).min(self.nr_regions)
    }

    /// Stores the content of array block `chunk`.
    pub(crate) fn fill(&mut self, chunk: u64, words: &[le::U64], census: Census) {
        let regions = self.regions_of(chunk);
        let len = regions.end - regions.start;
        self.chunks[chunk as usize] = match census.hydrated {
            0 => Chunk::Zeroes,
            hydrated if hydrated == len => Chunk::Ones,
            _ => Chunk::of(words, len),
        };
    }

    /// Returns the number of hydrated regions.
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

    /// Returns the hydrated regions as maximal runs, half-open, ascending.
    pub fn runs(&self) -> impl Iterator<Item = RegionRange> + '_ {
        self.runs_of(State::Hydrated)
    }

    /// Returns the lost regions as maximal runs, half-open, ascending.
    pub fn lost(&self) -> impl Iterator<Item = RegionRange> + '_ {
        self.runs_of(State::Lost)
    }

    /// True if no region is lost.
    pub fn is_whole(&self) -> bool {
        (0..self.nr_chunks()).all(|chunk| self.knows(chunk))
    }

    /// Sets all lost regions to hydrated or not hydrated.
    ///
    /// A wrong choice loses data: a region that is marked hydrated is served from the destination,
    /// which may not have its data; one that is not is copied from the source over the writes of
    /// users.
    pub fn settle_lost(&mut self, hydrated: bool) {
        self.settle(0..self.nr_regions, hydrated);
    }

    /// Returns the bits as 64-bit words, lowest region in the lowest bit, lost regions as zeroes.
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

    /// Returns runs that are split at the boundaries of array blocks.
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

    /// Returns the runs in array block `chunk`.
    fn pieces_in(&self, chunk: u64, wanted: State) -> Pieces<'_> {
        Pieces { chunks: chunk..chunk + 1, ..self.pieces(wanted) }
    }
}

/// Iterates over runs of regions in one state, within array blocks.
struct Pieces<'a> {
    map: &'a RegionMap,
    wanted: State,
    /// Array blocks that have not been started.
    chunks: RegionRange,
    /// First region of the started block.
    first: u64,
    /// The rest of the started block, in the form in which it is stored.
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
    /// Stores the first `len` bits of `words`, some of which are set.
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

/// Returns the runs of ones among the first `len` bits of `words`, or `None` if there are more than
/// [`RUNS_MAX`].
fn few_runs(words: &[le::U64], len: u64) -> Option<Box<[(u16, u16)]>> {
    let mut runs = Vec::new();
    let mut open: Option<u64> = None;
    let mut first = 0;
    for word in words {
        let word = word.get();
        // All ones if a run continues from the previous word.
        let before = if open.is_some() { u64::MAX } else { 0 };
        if word != before {
            // One bit for each position where the bits change.
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

/// Summary of the words of an array block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    /// Number of hydrated regions.
    pub(crate) hydrated: u64,
    /// True if a bit past the last region is set.
    pub(crate) trailing_bits: bool,
}

/// Counts the bits of an array block that holds `len` regions.
pub(crate) fn census(words: &[le::U64], len: u64) -> Census {
    assert!(words.len() <= WORDS_PER_BLOCK && words.len() as u64 == nr_words(len));
    let Some((last, full)) = words.split_last() else {
        return Census { hydrated: 0, trailing_bits: false };
    };
    let in_last = low_bits(len - full.len() as u64 * BITS_PER_WORD);
    let (any, all) =
        full.iter().fold((0, u64::MAX), |(any, all), word| (any | word.get(), all & word.get()));
    // Most array blocks are all zeroes or all ones. Detecting this is much cheaper than counting.
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
