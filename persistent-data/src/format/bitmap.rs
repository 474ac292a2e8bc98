//! A space map bitmap: two bits of reference count for each block that it covers
//! (`dm-space-map-common.h`).

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use crate::block::BlockKind;
use crate::number::{BLOCK_SIZE, BlockNr};

/// 64-bit words of counts in a bitmap.
pub const WORDS_PER_BITMAP: usize = (BLOCK_SIZE - 16) / size_of::<u64>();

/// Entries in one word.
const ENTRIES_PER_WORD: usize = 32;

/// Blocks that one bitmap covers.
pub const ENTRIES_PER_BITMAP: usize = WORDS_PER_BITMAP * ENTRIES_PER_WORD;

/// A bitmap.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BitmapDisk {
    /// Checksum of the rest of the block.
    pub csum: le::U32,
    /// Zero.
    pub not_used: le::U32,
    /// The bitmap's own block number.
    pub blocknr: le::U64,
    /// Two bits per entry, the lowest entry in the lowest bits.
    pub words: [le::U64; WORDS_PER_BITMAP],
}

const _: () = {
    assert!(size_of::<BitmapDisk>() == BLOCK_SIZE);
    assert!(offset_of!(BitmapDisk, not_used) == 4);
    assert!(offset_of!(BitmapDisk, blocknr) == 8);
    assert!(offset_of!(BitmapDisk, words) == 16);
    assert!(ENTRIES_PER_BITMAP == 16320);
};

/// The two bits of an entry.
///
/// The kernel stores the *high* bit of the count at the lower position, so one and two look
/// swapped (`sm_lookup_bitmap` in `dm-space-map-common.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefCountBits {
    /// Free.
    Zero = 0b00,
    /// One reference.
    One = 0b10,
    /// Two references.
    Two = 0b01,
    /// Three or more: the ref count tree holds the count.
    Overflow = 0b11,
}

impl RefCountBits {
    /// Returns the stored form of a count.
    pub fn of_count(count: u32) -> Self {
        match count {
            0 => Self::Zero,
            1 => Self::One,
            2 => Self::Two,
            _ => Self::Overflow,
        }
    }

    /// Returns the count, or `None` if the ref count tree holds it.
    pub fn count(self) -> Option<u32> {
        match self {
            Self::Zero => Some(0),
            Self::One => Some(1),
            Self::Two => Some(2),
            Self::Overflow => None,
        }
    }
}

impl BitmapDisk {
    /// Returns entry `entry` of `0..ENTRIES_PER_BITMAP`.
    pub fn get(&self, entry: usize) -> RefCountBits {
        let word = self.words[entry / ENTRIES_PER_WORD].get();
        match (word >> (2 * (entry % ENTRIES_PER_WORD))) & 0b11 {
            0b00 => RefCountBits::Zero,
            0b10 => RefCountBits::One,
            0b01 => RefCountBits::Two,
            _ => RefCountBits::Overflow,
        }
    }

    /// Stores `bits` as entry `entry` of `0..ENTRIES_PER_BITMAP`.
    pub fn set(&mut self, entry: usize, bits: RefCountBits) {
        let shift = 2 * (entry % ENTRIES_PER_WORD);
        let word = &mut self.words[entry / ENTRIES_PER_WORD];
        word.set((word.get() & !(0b11 << shift)) | ((bits as u64) << shift));
    }

    /// Returns the nonzero entries and their bits, in ascending order.
    pub fn used(&self) -> impl Iterator<Item = (usize, RefCountBits)> + '_ {
        let words = self.words.iter().zip((0..).step_by(ENTRIES_PER_WORD));
        words
            .filter(|(word, _)| word.get() != 0)
            .flat_map(|(_, first)| {
                let entries = first..first + ENTRIES_PER_WORD;
                entries.map(|entry| (entry, self.get(entry)))
            })
            .filter(|&(_, bits)| bits != RefCountBits::Zero)
    }

    /// Returns the number of zero entries, including those past the end of the device.
    pub fn nr_free(&self) -> u32 {
        self.words.iter().map(|word| free_entries(word.get()).count_ones()).sum()
    }

    /// True if everything but the first `covered` entries is zero.
    pub fn is_tidy(&self, covered: usize) -> bool {
        let mut past_end = covered..ENTRIES_PER_BITMAP;
        self.not_used.get() == 0 && past_end.all(|entry| self.get(entry) == RefCountBits::Zero)
    }

    /// Zeroes everything but the first `covered` entries.
    pub fn tidy(&mut self, covered: usize) {
        self.not_used.set(0);
        for entry in covered..ENTRIES_PER_BITMAP {
            self.set(entry, RefCountBits::Zero);
        }
    }

    /// Returns the first entry in `from..end` that is zero.
    pub fn first_free(&self, from: usize, end: usize) -> Option<usize> {
        let mut entry = from;
        while entry < end {
            let skip = entry % ENTRIES_PER_WORD;
            let free = free_entries(self.words[entry / ENTRIES_PER_WORD].get()) >> (2 * skip);
            if free != 0 {
                let found = entry + free.trailing_zeros() as usize / 2;
                return (found < end).then_some(found);
            }
            entry += ENTRIES_PER_WORD - skip;
        }
        None
    }
}

/// Returns a word with the lower bit set of each pair of `word` that is `0b00`.
fn free_entries(word: u64) -> u64 {
    const LOWER: u64 = 0x5555_5555_5555_5555;
    !(word | (word >> 1)) & LOWER
}

/// The block kind of bitmaps.
#[derive(Debug)]
pub enum Bitmap {}

impl BlockKind for Bitmap {
    const NAME: &'static str = "space map bitmap";
    const CSUM_SALT: u32 = 240_779;
    type Disk = BitmapDisk;

    fn location(disk: &BitmapDisk) -> BlockNr {
        BlockNr(disk.blocknr.get())
    }

    fn set_location(disk: &mut BitmapDisk, at: BlockNr) {
        disk.blocknr.set(at.0);
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::{BitmapDisk, ENTRIES_PER_BITMAP, RefCountBits};

    #[test]
    fn one_and_two_are_stored_with_the_high_bit_first() {
        let mut bitmap = BitmapDisk::new_zeroed();
        for (entry, count) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
            bitmap.set(entry, RefCountBits::of_count(count));
        }
        assert_eq!(bitmap.words[0].get(), 0b00_11_01_10);
    }

    #[test]
    fn every_entry_keeps_every_count_and_leaves_its_neighbours_alone() {
        let mut bitmap = BitmapDisk::new_zeroed();
        for entry in 0..ENTRIES_PER_BITMAP {
            bitmap.set(entry, RefCountBits::of_count(entry as u32 % 4));
        }
        for entry in 0..ENTRIES_PER_BITMAP {
            assert_eq!(bitmap.get(entry), RefCountBits::of_count(entry as u32 % 4), "{entry}");
        }
        assert_eq!(bitmap.nr_free() as usize, ENTRIES_PER_BITMAP / 4);
    }

    #[test]
    fn the_used_entries_are_those_that_are_not_zero() {
        let mut bitmap = BitmapDisk::new_zeroed();
        let used: Vec<_> = [0, 1, 31, 32, 4000, ENTRIES_PER_BITMAP - 1]
            .into_iter()
            .zip((1..=3).cycle().map(RefCountBits::of_count))
            .collect();
        for &(entry, bits) in &used {
            bitmap.set(entry, bits);
        }
        assert_eq!(bitmap.used().collect::<Vec<_>>(), used);
    }

    #[test]
    fn the_first_free_entry_is_found_from_every_start_and_before_every_end() {
        let mut bitmap = BitmapDisk::new_zeroed();
        let free = [0, 31, 32, 33, 63, 64, 1000, ENTRIES_PER_BITMAP - 1];
        for entry in 0..ENTRIES_PER_BITMAP {
            let count = if free.contains(&entry) { 0 } else { 1 + entry as u32 % 3 };
            bitmap.set(entry, RefCountBits::of_count(count));
        }
        for end in (0..130).chain([999, 1000, 1001, ENTRIES_PER_BITMAP]) {
            for from in 0..=end {
                let expected = free.iter().copied().find(|&entry| (from..end).contains(&entry));
                assert_eq!(bitmap.first_free(from, end), expected, "{from}..{end}");
            }
        }
    }
}
