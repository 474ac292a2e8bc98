//! A device whose size grows.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, ReadDevice};

/// The first blocks of a device, few at first and more later.
#[derive(Debug)]
pub struct Growing<D> {
    inner: D,
    nr_blocks: AtomicU64,
}

impl<D: ReadDevice> Growing<D> {
    /// Exposes the first `nr_blocks` blocks of `inner`.
    pub fn new(inner: D, nr_blocks: u64) -> Self {
        let growing = Self { inner, nr_blocks: AtomicU64::new(0) };
        growing.grow_to(nr_blocks);
        growing
    }

    /// Grows the device to `nr_blocks` blocks.
    ///
    /// # Panics
    /// If the device inside has fewer blocks, and if that would make this one smaller.
    pub fn grow_to(&self, nr_blocks: u64) {
        assert!(nr_blocks <= self.inner.nr_blocks(), "there are so many blocks");
        let before = self.nr_blocks.swap(nr_blocks, Ordering::Relaxed);
        assert!(before <= nr_blocks, "a device does not shrink");
    }
}

impl<D: ReadDevice> ReadDevice for Growing<D> {
    fn nr_blocks(&self) -> u64 {
        self.nr_blocks.load(Ordering::Relaxed)
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        assert!(first.0 + into.len() as u64 <= self.nr_blocks(), "a read past the end");
        self.inner.read(first, into)
    }
}

impl<D: Device> Device for Growing<D> {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        assert!(first.0 + from.len() as u64 <= self.nr_blocks(), "a write past the end");
        self.inner.write(first, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
}
