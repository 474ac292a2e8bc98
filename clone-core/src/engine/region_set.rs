//! Some regions of many.

use std::collections::BTreeMap;

use persistent_data::bitset::BITS_PER_WORD;

use crate::bits::{BitRuns, set_bits};
use crate::geometry::RegionRange;

/// Regions of a piece.
const PIECE: u64 = 1024;

const WORDS: usize = (PIECE / BITS_PER_WORD) as usize;

/// A set of regions that takes memory for the places only where there are some: a bit and a
/// quarter for each region around them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionSet {
    pieces: BTreeMap<u64, Box<[u64; WORDS]>>,
}

impl RegionSet {
    /// Adds `regions`.
    pub fn insert(&mut self, regions: RegionRange) {
        let mut at = regions.start;
        while at < regions.end {
            let (piece, first) = (at / PIECE, at / PIECE * PIECE);
            let end = regions.end.min(first + PIECE);
            let words = self.pieces.entry(piece).or_insert_with(|| Box::new([0; WORDS]));
            set_bits(&mut words[..], at - first..end - first);
            at = end;
        }
    }

    /// Whether there is no region in it.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether `region` is in it.
    pub fn contains(&self, region: u64) -> bool {
        self.pieces.get(&(region / PIECE)).is_some_and(|words| {
            let bit = region % PIECE;
            words[(bit / BITS_PER_WORD) as usize] >> (bit % BITS_PER_WORD) & 1 == 1
        })
    }

    /// How many regions there are in it.
    pub fn len(&self) -> u64 {
        let words = self.pieces.values().flat_map(|words| words.iter());
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many pieces of memory it takes, of 1024 regions each.
    pub(crate) fn nr_pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The regions as runs, ascending, half-open; runs may touch where the set is stored in pieces.
    pub fn runs(&self) -> impl Iterator<Item = RegionRange> + '_ {
        self.pieces.iter().flat_map(|(&piece, words)| {
            BitRuns::of(&words[..])
                .map(move |run| piece * PIECE + run.start..piece * PIECE + run.end)
        })
    }
}
