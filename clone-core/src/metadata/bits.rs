//! Bits of regions in 64-bit words, the lowest region in the lowest bit.

use std::ops::BitOrAssign;

use persistent_data::bitset::{BITS_PER_WORD, masks};

use crate::geometry::RegionRange;

/// Sets the bits `bits`, half-open, in `words`, in memory or as on disk.
pub(crate) fn set_bits<W: BitOrAssign + From<u64>>(words: &mut [W], bits: RegionRange) {
    for (index, mask) in masks(bits) {
        words[index as usize] |= W::from(mask);
    }
}

/// Iterates over the runs of ones in words.
pub(crate) struct BitRuns<'a> {
    words: &'a [u64],
    at: u64,
}

impl<'a> BitRuns<'a> {
    pub(crate) fn of(words: &'a [u64]) -> Self {
        Self::from(words, 0)
    }

    /// Returns the runs that end after bit `at`; the first is cut off at `at`.
    pub(crate) fn from(words: &'a [u64], at: u64) -> Self {
        Self { words, at }
    }

    /// Returns the first bit at or after `from` that equals `value`, or the end if there is none.
    fn seek(&self, from: u64, value: bool) -> u64 {
        let end = self.words.len() as u64 * BITS_PER_WORD;
        let mut at = from;
        while at < end {
            let word = self.words[(at / BITS_PER_WORD) as usize];
            let wanted = if value { word } else { !word } >> (at % BITS_PER_WORD);
            if wanted != 0 {
                return at + u64::from(wanted.trailing_zeros());
            }
            at = (at / BITS_PER_WORD + 1) * BITS_PER_WORD;
        }
        end
    }
}

impl Iterator for BitRuns<'_> {
    type Item = RegionRange;

    fn next(&mut self) -> Option<RegionRange> {
        let end = self.words.len() as u64 * BITS_PER_WORD;
        let start = self.seek(self.at, true);
        if start == end {
            return None;
        }
        self.at = self.seek(start, false);
        Some(start..self.at)
    }
}
