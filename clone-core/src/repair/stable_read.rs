//! A device that should give the same answer twice.

use std::io;
use std::sync::{Mutex, PoisonError};

use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::ReadDevice;

use super::scan::Scan;

/// Remembers which single blocks could not be read.
///
/// A recovery concludes from what is *not* on a device, too. A block that was there during the scan
/// and cannot be read afterwards would be missing without a trace.
pub(super) struct Steady<'a, D: ?Sized> {
    device: &'a D,
    failed: Mutex<Vec<BlockNr>>,
}

impl<'a, D: ReadDevice + ?Sized> Steady<'a, D> {
    pub(super) fn new(device: &'a D) -> Self {
        Self { device, failed: Mutex::default() }
    }

    /// Whether every block that was sound during `scan` could be read whenever it was wanted since.
    pub(super) fn was_steady(&self, scan: &Scan) -> bool {
        !self.failed().iter().any(|&at| !scan.is_damaged(at))
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Vec<BlockNr>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: ReadDevice + ?Sized> ReadDevice for Steady<'_, D> {
    fn nr_blocks(&self) -> u64 {
        self.device.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        let result = self.device.read(first, into);
        // Of several, each is read again by itself.
        if result.is_err() && into.len() == 1 {
            self.failed().push(first);
        }
        result
    }

    fn skip_hole(&self, from: BlockNr) -> BlockNr {
        self.device.skip_hole(from)
    }
}
