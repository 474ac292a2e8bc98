//! Bitsets: bits in an array of 64-bit words, bit `b` in bit `b % 64` of word `b / 64`.
//!
//! *Invariant:* bits past the end in the last word are zero.

use std::ops::Range;

use zerocopy::little_endian as le;

use crate::array::{Array, ArrayBuilder, entries_per_block};
use crate::error::{Error, Result};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// Bits in a word.
pub const BITS_PER_WORD: u64 = 64;

/// Bits in a full array block.
pub const BITS_PER_BLOCK: u64 = entries_per_block::<le::U64>() as u64 * BITS_PER_WORD;

const _: () = assert!(BITS_PER_BLOCK == 32576);

/// A word whose changed bits are only in memory so far.
#[derive(Clone, Copy, Debug)]
struct PendingWord {
    index: u64,
    value: u64,
}

/// A bitset of `len` bits.
///
/// Single bits are set in one word in memory, which is written when another word is changed. Call
/// [`flush`](Self::flush) before the transaction commits.
#[derive(Debug)]
pub struct Bitset {
    words: Array<le::U64>,
    len: u64,
    pending: Option<PendingWord>,
}

/// Returns the number of words that hold `bits` bits.
pub fn nr_words(bits: u64) -> u64 {
    bits.div_ceil(BITS_PER_WORD)
}

/// Returns the number of array blocks that hold `bits` bits.
pub fn nr_array_blocks(bits: u64) -> u64 {
    bits.div_ceil(BITS_PER_BLOCK)
}

/// Returns a word with its `count` lowest bits set, `0..=64`.
pub fn low_bits(count: u64) -> u64 {
    if count >= BITS_PER_WORD { u64::MAX } else { (1 << count) - 1 }
}

/// Returns the indexes of the words that hold `bits`, half-open, and a mask of those bits in each.
pub fn masks(bits: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    (bits.start / BITS_PER_WORD..nr_words(bits.end))
        .map(move |index| (index, mask_in_word(index, &bits)))
}

/// Returns a mask of the bits of word `index` that lie in `bits`.
fn mask_in_word(index: u64, bits: &Range<u64>) -> u64 {
    let first = index * BITS_PER_WORD;
    let from = bits.start.clamp(first, first + BITS_PER_WORD) - first;
    let to = bits.end.clamp(first, first + BITS_PER_WORD) - first;
    low_bits(to) & !low_bits(from)
}

impl Bitset {
    /// Creates a bitset without bits.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn create<W: Writer>(writer: &mut W) -> Result<Self> {
        Ok(Self { words: Array::create(writer)?, len: 0, pending: None })
    }

    /// Opens the bitset of `len` bits whose array has its root at `root`. Reads nothing.
    pub fn open(root: BlockNr, len: u64) -> Self {
        Self { words: Array::open(root, nr_words(len)), len, pending: None }
    }

    /// Builds a new bitset of `len` bits. `fill` gets the zeroed words of each array block in turn,
    /// with the number of the first bit in them, and sets bits. Bits past `len` are ignored.
    ///
    /// # Errors
    /// Those of the writer and of `fill`.
    pub fn build<W: Writer, E: From<Error>>(
        writer: &mut W,
        len: u64,
        mut fill: impl FnMut(u64, &mut [le::U64]) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        let mut builder = ArrayBuilder::new();
        let mut words = vec![le::U64::ZERO; (BITS_PER_BLOCK / BITS_PER_WORD) as usize];
        for block in 0..nr_array_blocks(len) {
            let bits = block * BITS_PER_BLOCK..len.min((block + 1) * BITS_PER_BLOCK);
            words.truncate(nr_words(bits.end - bits.start) as usize);
            words.fill(le::U64::ZERO);
            fill(bits.start, &mut words)?;
            if let Some(last) = words.last_mut() {
                let in_last = mask_in_word((bits.end - 1) / BITS_PER_WORD, &bits);
                *last &= le::U64::new(in_last);
            }
            builder.extend(writer, &words)?;
        }
        Ok(Self { words: builder.finish(writer)?, len, pending: None })
    }

    /// Returns the number of bits.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if there are no bits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns bit `bit` of `0..len`.
    ///
    /// # Errors
    /// [`Error::Index`] if `bit` is out of range, and those of the reader.
    pub fn get<R: Reader>(&self, reader: &R, bit: u64) -> Result<bool> {
        let word = self.word(reader, self.check(bit)? / BITS_PER_WORD)?;
        Ok(word >> (bit % BITS_PER_WORD) & 1 == 1)
    }

    fn word<R: Reader>(&self, reader: &R, index: u64) -> Result<u64> {
        match self.pending {
            Some(pending) if pending.index == index => Ok(pending.value),
            _ => Ok(self.words.get(reader, index)?.get()),
        }
    }

    /// Sets bit `bit` of `0..len` to `value`.
    ///
    /// # Errors
    /// [`Error::Index`] if `bit` is out of range, and those of the writer.
    pub fn set<W: Writer>(&mut self, writer: &mut W, bit: u64, value: bool) -> Result<()> {
        let index = self.check(bit)? / BITS_PER_WORD;
        let word = self.word(writer, index)?;
        if self.pending.is_some_and(|pending| pending.index != index) {
            self.flush(writer)?;
        }
        let in_word = 1 << (bit % BITS_PER_WORD);
        let changed = if value { word | in_word } else { word & !in_word };
        if changed != word {
            self.pending = Some(PendingWord { index, value: changed });
        }
        Ok(())
    }

    /// Sets all of `bits`, half-open and within `0..len`, to `value`. Each array block that they
    /// touch is copied at most once.
    ///
    /// # Errors
    /// [`Error::Index`] if `bits` ends past `len`, and those of the writer.
    pub fn set_range<W: Writer>(
        &mut self,
        writer: &mut W,
        bits: Range<u64>,
        value: bool,
    ) -> Result<()> {
        if bits.is_empty() {
            return Ok(());
        }
        self.check(bits.end - 1)?;
        self.flush(writer)?;
        for block in bits.start / BITS_PER_BLOCK..nr_array_blocks(bits.end) {
            self.edit_block(writer, block, |first_bit, words| {
                for (word, index) in words.iter_mut().zip(first_bit / BITS_PER_WORD..) {
                    let touched = mask_in_word(index, &bits);
                    let rest = word.get() & !touched;
                    word.set(if value { rest | touched } else { rest });
                }
            })?;
        }
        Ok(())
    }

    /// Lets `change` edit the words of array block `block`, which must exist; `change` also gets
    /// the number of the first bit in them. Bits past the end must stay zero.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn edit_block<W: Writer>(
        &mut self,
        writer: &mut W,
        block: u64,
        change: impl FnOnce(u64, &mut [le::U64]),
    ) -> Result<()> {
        self.flush(writer)?;
        self.words.edit_block(writer, block, |words| change(block * BITS_PER_BLOCK, words))
    }

    /// Changes the length to `len` bits; new bits are `value`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn resize<W: Writer>(&mut self, writer: &mut W, len: u64, value: bool) -> Result<()> {
        self.flush(writer)?;
        let old = self.len;
        self.words.resize(writer, nr_words(len), le::U64::new(0))?;
        self.len = len;
        if len > old {
            return if value { self.set_range(writer, old..len, true) } else { Ok(()) };
        }
        let last = len / BITS_PER_WORD;
        if last < self.words.len() {
            let kept = self.words.get(writer, last)?.get() & mask_in_word(last, &(0..len));
            self.words.set(writer, last, le::U64::new(kept))?;
        }
        Ok(())
    }

    /// Writes pending bits into the transaction's blocks and returns the bitset's current root.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn flush<W: Writer>(&mut self, writer: &mut W) -> Result<BlockNr> {
        if let Some(pending) = self.pending.take() {
            self.words.set(writer, pending.index, le::U64::new(pending.value))?;
        }
        Ok(self.words.root())
    }

    /// Gives `look` the words of array block `block`, which must exist. Bits that are not
    /// [flushed](Self::flush) are not included.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn read_block<R: Reader, T>(
        &self,
        reader: &R,
        block: u64,
        look: impl FnOnce(&[le::U64]) -> T,
    ) -> Result<T> {
        self.words.read_block(reader, block, look)
    }

    /// Gives `visit` every word in turn, with its index; the lowest bit of a word is its first.
    /// Bits that are not [flushed](Self::flush) are not included.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn for_each_word<R: Reader>(
        &self,
        reader: &R,
        mut visit: impl FnMut(u64, u64),
    ) -> Result<()> {
        self.words.for_each_block(reader, |first, words| {
            for (word, index) in words.iter().zip(first..) {
                visit(index, word.get());
            }
            Ok(())
        })
    }

    /// Deletes the bitset: drops the reference to its root.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn delete<W: Writer>(self, writer: &mut W) -> Result<()> {
        self.words.delete(writer)
    }

    fn check(&self, bit: u64) -> Result<u64> {
        if bit < self.len { Ok(bit) } else { Err(Error::Index { index: bit, len: self.len }) }
    }
}
