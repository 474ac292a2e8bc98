//! Memory that direct I/O takes.

use std::fmt;
use std::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// As much as any device asks for.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

const PAGE_BYTES: usize = 4096;

/// What addresses of an [`AlignedBuf`] are multiples of, in bytes.
pub(super) const ALIGNMENT: usize = PAGE_BYTES;

/// Bytes that begin at a multiple of 4096 in memory. What is read into them, or written from them,
/// by direct I/O needs no copy on the way.
#[derive(Clone)]
pub struct AlignedBuf {
    pages: Vec<Page>,
    len: usize,
}

impl AlignedBuf {
    /// `len` bytes of zeroes.
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
