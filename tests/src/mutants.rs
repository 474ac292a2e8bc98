//! More devices that break a guarantee that commits rely on, to prove that the tests detect it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, ReadDevice};
use persistent_data::transaction::SUPERBLOCK;

/// A device that skips the flush right after a write of the superblock.
#[derive(Debug)]
pub struct UnflushedSuperblock<D> {
    inner: D,
    superblock_was_last: AtomicBool,
}

impl<D> UnflushedSuperblock<D> {
    /// Skips those flushes of `inner`.
    pub fn new(inner: D) -> Self {
        Self { inner, superblock_was_last: AtomicBool::new(false) }
    }
}

impl<D: ReadDevice> ReadDevice for UnflushedSuperblock<D> {
    fn nr_blocks(&self) -> u64 {
        self.inner.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.inner.read(first, into)
    }
}

impl<D: Device> Device for UnflushedSuperblock<D> {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        self.superblock_was_last.store(first == SUPERBLOCK, Ordering::Relaxed);
        self.inner.write(first, from)
    }

    fn flush(&self) -> io::Result<()> {
        if self.superblock_was_last.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.inner.flush()
    }
}

/// A device that reports one write as done without doing it.
#[derive(Debug)]
pub struct LostWrite<D> {
    inner: D,
    writes_before: AtomicU64,
}

impl<D> LostWrite<D> {
    /// Loses write number `nth` to `inner`.
    pub fn new(inner: D, nth: u64) -> Self {
        Self { inner, writes_before: AtomicU64::new(nth) }
    }
}

impl<D: ReadDevice> ReadDevice for LostWrite<D> {
    fn nr_blocks(&self) -> u64 {
        self.inner.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.inner.read(first, into)
    }
}

impl<D: Device> Device for LostWrite<D> {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        // The counter wraps past the lost write, and never counts down to another one.
        match self.writes_before.fetch_sub(1, Ordering::Relaxed) {
            0 => Ok(()),
            _ => self.inner.write(first, from),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
}
