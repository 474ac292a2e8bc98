//! A sparse set of regions.

use std::collections::BTreeMap;

use persistent_data::bitset::BITS_PER_WORD;

use crate::geometry::RegionRange;
use crate::metadata::bits::{BitRuns, set_bits};

/// Regions per piece.
const PIECE: u64 = 1024;

const WORDS: usize = (PIECE / BITS_PER_WORD) as usize;

/// A set of regions that uses memory only near its members: about 1.25 bits for each region of a
/// piece with members, and much less for a piece that is entirely in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionSet {
    /// `None` for a piece that is entirely in the set.
    pieces: BTreeMap<u64, Option<Box<[u64; WORDS]>>>,
}

impl RegionSet {
    /// Adds `regions`.
    pub fn insert(&mut self, regions: RegionRange) {
        let mut at = regions.start;
        while at < regions.end {
            let (piece, first) = (at / PIECE, at / PIECE * PIECE);
            let end = regions.end.min(first + PIECE);
            if end - at == PIECE {
                self.pieces.insert(piece, None);
            } else {
                let bits = self.pieces.entry(piece).or_insert_with(|| Some(Box::new([0; WORDS])));
                if let Some(words) = bits {
                    set_bits(&mut words[..], at - first..end - first);
                    if words.iter().all(|&word| word == u64::MAX) {
                        *bits = None;
                    }
                }
            }
            at = end;
        }
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns true if `region` is in the set.
    pub fn contains(&self, region: u64) -> bool {
        self.pieces.get(&(region / PIECE)).is_some_and(|bits| {
            let bit = region % PIECE;
            let has = |words: &[u64; WORDS]| {
                words[(bit / BITS_PER_WORD) as usize] >> (bit % BITS_PER_WORD) & 1 == 1
            };
            bits.as_deref().is_none_or(has)
        })
    }

    /// Returns the number of regions in the set.
    pub fn len(&self) -> u64 {
        let count = |words: &[u64; WORDS]| -> u64 {
            words.iter().map(|word| u64::from(word.count_ones())).sum()
        };
        self.pieces.values().map(|bits| bits.as_deref().map_or(PIECE, count)).sum()
    }

    /// Returns the number of stored pieces, of 1024 regions each.
    pub(crate) fn nr_pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the regions as ascending half-open runs; runs may touch at borders of pieces.
    pub fn runs(&self) -> impl Iterator<Item = RegionRange> + '_ {
        self.pieces.iter().flat_map(|(&piece, bits)| {
            let words = bits.as_deref().unwrap_or(&[u64::MAX; WORDS]);
            BitRuns::of(&words[..])
                .map(move |run| piece * PIECE + run.start..piece * PIECE + run.end)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quickcheck::quickcheck;

    use super::RegionSet;

    quickcheck! {
        fn it_holds_what_was_put_in(ranges: Vec<(u16, u8)>) -> bool {
            let (mut set, mut model) = (RegionSet::default(), BTreeSet::new());
            for (start, len) in ranges {
                // Long enough to span several pieces.
                let range = u64::from(start)..u64::from(start) + 17 * u64::from(len);
                set.insert(range.clone());
                model.extend(range);
            }
            let runs: Vec<u64> = set.runs().flatten().collect();
            runs.iter().copied().eq(model.iter().copied())
                && set.len() == model.len() as u64
                && set.is_empty() == model.is_empty()
                && (0..70_000).step_by(61).all(|at| set.contains(at) == model.contains(&at))
        }
    }

    #[test]
    fn a_piece_that_fills_up_is_as_one_that_was_put_in_whole() {
        let (mut bit_by_bit, mut whole) = (RegionSet::default(), RegionSet::default());
        (2048..3072).rev().for_each(|region| bit_by_bit.insert(region..region + 1));
        whole.insert(2048..3072);
        assert_eq!(bit_by_bit, whole);
        whole.insert(2050..2051);
        assert!(whole.runs().eq([2048..3072]) && whole.len() == 1024 && whole.contains(3071));
    }

    #[test]
    fn it_takes_memory_only_where_there_are_regions() {
        let mut set = RegionSet::default();
        set.insert((1 << 31) - 1..1 << 31);
        set.insert(1023..1025);
        assert_eq!(set.nr_pieces(), 3);
        assert_eq!(set.runs().collect::<Vec<_>>().len(), 3);
    }
}
