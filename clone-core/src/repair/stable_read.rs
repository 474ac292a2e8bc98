//! A device whose failed reads are recorded, to detect reads that are not stable.

use std::io;
use std::sync::{Mutex, PoisonError};

use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::ReadDevice;

use super::scan::Scan;

/// Records the single blocks that could not be read.
///
/// A recovery also draws conclusions from blocks that are *not* on a device. A block that was
/// readable during the scan and is unreadable later would go unnoticed.
pub(super) struct StableDevice<'a, D: ?Sized> {
    device: &'a D,
    failed: Mutex<Vec<BlockNr>>,
}

impl<'a, D: ReadDevice + ?Sized> StableDevice<'a, D> {
    pub(super) fn new(device: &'a D) -> Self {
        Self { device, failed: Mutex::default() }
    }

    /// Returns whether every block that was sound during `scan` could be read ever since.
    pub(super) fn was_stable(&self, scan: &Scan) -> bool {
        !self.failed().iter().any(|&at| !scan.is_damaged(at))
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Vec<BlockNr>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: ReadDevice + ?Sized> ReadDevice for StableDevice<'_, D> {
    fn nr_blocks(&self) -> u64 {
        self.device.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        let result = self.device.read(first, into);
        // After a failed read of several blocks, each is read again by itself.
        if result.is_err() && into.len() == 1 {
            self.failed().push(first);
        }
        result
    }

    fn skip_hole(&self, from: BlockNr) -> BlockNr {
        self.device.skip_hole(from)
    }
}
