//! Memory that is aligned for direct I/O.

use std::fmt;
use std::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// As large an alignment as any device requires.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

const PAGE_BYTES: usize = 4096;

/// Alignment of the address of an [`AlignedBuf`], in bytes.
pub(super) const ALIGNMENT: usize = PAGE_BYTES;

/// A byte buffer aligned to 4096 bytes in memory. Direct I/O to and from it needs no bounce buffer.
#[derive(Clone)]
pub struct AlignedBuf {
    pages: Vec<Page>,
    len: usize,
}

impl AlignedBuf {
    /// Creates a buffer of `len` zero bytes.
    pub fn new(len: usize) -> Self {
        Self { pages: vec![Page([0; PAGE_BYTES]); len.div_ceil(PAGE_BYTES)], len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages.as_bytes()[..self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_bytes()[..self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::AlignedBuf;

    #[test]
    fn it_has_the_length_that_was_asked_for_and_begins_at_a_multiple_of_4096() {
        for len in [0, 1, 511, 4095, 4096, 4097, 1 << 20] {
            let mut buffer = AlignedBuf::new(len);
            assert_eq!(buffer.as_ptr().addr() % 4096, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert_eq!(&*buffer.clone(), &vec![7; len]);
        }
    }
}
