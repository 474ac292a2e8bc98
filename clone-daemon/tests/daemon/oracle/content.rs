//! What the bytes of a clone can be, so that a byte tells which write it is from.
//!
//! A byte of data is never zero. At one offset any two of the [`TAGS`] tags have different bytes,
//! so that writes which are under way at the same time can be told apart byte by byte.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How many tags there are. The first is that of the source.
const TAGS: usize = 255;

/// What a write leaves in its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// What the source has there.
    Source,
    /// Zeroes.
    Zeroes,
    /// Data, of the write with this tag: 1 to 254.
    Tag(u8),
    /// Nobody can tell what.
    Unknown,
}

/// The content of a source, and of all writes to a clone of it.
pub(super) struct Content {
    source: Vec<u8>,
    /// For each offset a number below [`TAGS`].
    template: Vec<u8>,
    /// For each tag the bytes that stand for these numbers.
    bytes: Vec<[u8; 256]>,
}

impl Content {
    /// A source of `len` bytes with holes, that `seed` decides.
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
            // Most holes are short of a region or have odd ends; some are long.
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

    /// Bytes of the clone.
    pub(super) fn len(&self) -> u64 {
        self.source.len() as u64
    }

    pub(super) fn source(&self) -> &[u8] {
        &self.source
    }

    /// Fills `into` with what `value` is from `offset` on.
    ///
    /// # Panics
    /// If nobody can tell what that is.
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

    /// Whether `data` is what `value` is from `offset` on.
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

    /// Whose byte this is, if it is one of the content of this offset.
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
