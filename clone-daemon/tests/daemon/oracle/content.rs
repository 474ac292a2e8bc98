//! The content of a clone, chosen so that a byte tells which write it is from.
//!
//! A byte of data is never zero. At each offset any two of the [`TAGS`] tags have different bytes,
//! so that writes in flight at the same time can be distinguished byte by byte.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Number of tags. The first belongs to the source.
const TAGS: usize = 255;

/// The result of a write in its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The data of the source.
    Source,
    /// Zeroes.
    Zeroes,
    /// Data of the write with this tag, 1 to 254.
    Tag(u8),
    /// Unknown data.
    Unknown,
}

/// The content of a source and of all writes to its clone.
pub(super) struct Content {
    source: Vec<u8>,
    /// For each offset a number below [`TAGS`].
    template: Vec<u8>,
    /// For each tag the bytes that stand for these numbers.
    bytes: Vec<[u8; 256]>,
}

impl Content {
    /// Creates a source of `len` bytes with holes, determined by `seed`.
    pub(super) fn new(seed: u64, len: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0xc0_47e4);
        let mut template = vec![0; len];
        random.fill(&mut template[..]);
        for number in &mut template {
            *number %= TAGS as u8;
        }
        let row = |tag: usize| std::array::from_fn(|number| (1 + (number + tag) % TAGS) as u8);
        let mut content =
            Self { source: Vec::new(), template, bytes: (0..TAGS).map(row).collect() };
        let mut source = vec![0; len];
        content.fill(Value::Tag(0), 0, &mut source);
        let mut at = 0;
        while at < len {
            // Most holes are shorter than a region or have unaligned ends; some are long.
            at += random.random_range(1..=len / 4);
            let longest = if random.random_bool(0.3) { len / 4 } else { 20_000 };
            let end = len.min(at + random.random_range(1..=longest.max(1)));
            if at < end {
                source[at..end].fill(0);
            }
            at = end;
        }
        content.source = source;
        content
    }

    /// Returns the size of the clone in bytes.
    pub(super) fn len(&self) -> u64 {
        self.source.len() as u64
    }

    pub(super) fn source(&self) -> &[u8] {
        &self.source
    }

    /// Fills `into` with the content of `value` from `offset`.
    ///
    /// # Panics
    /// If the value is [`Value::Unknown`].
    pub(super) fn fill(&self, value: Value, offset: u64, into: &mut [u8]) {
        let at = offset as usize;
        match value {
            Value::Source => into.copy_from_slice(&self.source[at..at + into.len()]),
            Value::Zeroes => into.fill(0),
            Value::Tag(tag) => {
                let row = &self.bytes[tag as usize];
                let numbers = &self.template[at..at + into.len()];
                for (byte, number) in into.iter_mut().zip(numbers) {
                    *byte = row[*number as usize];
                }
            }
            Value::Unknown => panic!("nobody knows these bytes"),
        }
    }

    /// Returns whether `data` is the content of `value` from `offset`.
    pub(super) fn is(&self, value: Value, offset: u64, data: &[u8]) -> bool {
        let at = offset as usize;
        match value {
            Value::Source => data == &self.source[at..at + data.len()],
            Value::Zeroes => data.iter().all(|&byte| byte == 0),
            Value::Tag(tag) => {
                let row = &self.bytes[tag as usize];
                let numbers = &self.template[at..at + data.len()];
                data.iter().zip(numbers).all(|(byte, number)| *byte == row[*number as usize])
            }
            Value::Unknown => true,
        }
    }

    /// Returns the value that a byte at this offset belongs to.
    pub(super) fn author(&self, offset: u64, byte: u8) -> Value {
        let Some(number) = byte.checked_sub(1) else { return Value::Zeroes };
        let template = usize::from(self.template[offset as usize]);
        match (usize::from(number) + TAGS - template) % TAGS {
            0 => Value::Source,
            tag => Value::Tag(tag as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, Value};

    #[test]
    fn a_byte_tells_its_author_and_no_two_authors_have_the_same() {
        let content = Content::new(1, 10_000);
        for tag in 1..=254 {
            let mut data = vec![0; 300];
            content.fill(Value::Tag(tag), 5, &mut data);
            assert!(content.is(Value::Tag(tag), 5, &data) && !content.is(Value::Source, 5, &data));
            for (offset, &byte) in (5..).zip(&data) {
                assert_eq!(content.author(offset, byte), Value::Tag(tag));
            }
        }
        let zeroes = content.source().iter().filter(|&&byte| byte == 0).count();
        assert!(zeroes > 0 && zeroes < 10_000, "{zeroes} bytes are in holes");
    }
}
