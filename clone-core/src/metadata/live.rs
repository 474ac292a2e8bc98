//! Checks the metadata of a running clone.
//!
//! Copy-on-write keeps everything that a superblock reaches intact until the commit after the next
//! one. But the superblock has no number that distinguishes commits: block numbers are reused, so
//! the same superblock can occur again with other content below it. Two rules detect such changes:
//!
//! - After every other read, the superblock is read again. A pass during which it changed is
//!   discarded and ends there.
//! - Two passes in a row must have read the same. Bits only change from zero to one, so an array
//!   block that is equal before and after was never a different one in between.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::ReadDevice;
use persistent_data::transaction::SUPERBLOCK;
use thiserror::Error;

use crate::metadata::check::{Report, Scope, check, read};
use crate::progress::Progress;

/// Maximum number of passes over the metadata.
pub const PASSES_MAX: u32 = 500;

/// The metadata changed during every pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the metadata changed during each of {PASSES_MAX} passes over it: the clone commits faster \
     than its metadata can be read. Suspend it meanwhile (dmsetup suspend, and resume after), or \
     stop hydration"
)]
pub struct NeverAtRest;

/// [Checks](check) the metadata of a clone that may be committing. `device` must bypass all caches.
/// The report belongs to a single commit.
///
/// # Errors
/// [`NeverAtRest`] if the metadata changed during each of [`PASSES_MAX`] passes.
pub fn check_live<D: ReadDevice + ?Sized>(
    device: &D,
    scope: Scope,
    progress: &dyn Progress,
) -> Result<Report, NeverAtRest> {
    at_rest(device, |device| check(device, scope, progress))
}

/// [Reads](read) the metadata of a clone that may be committing. `device` must bypass all caches.
/// The report belongs to a single commit.
///
/// # Errors
/// [`NeverAtRest`] if the metadata changed during each of [`PASSES_MAX`] passes.
pub fn read_live<D: ReadDevice + ?Sized>(
    device: &D,
    progress: &dyn Progress,
) -> Result<Report, NeverAtRest> {
    at_rest(device, |device| read(device, progress))
}

/// Makes passes over the metadata until two in a row have read the same.
fn at_rest<D: ReadDevice + ?Sized>(
    device: &D,
    pass: impl Fn(&Recorder<'_, D>) -> Report,
) -> Result<Report, NeverAtRest> {
    let mut before: Option<Contents> = None;
    for _ in 0..PASSES_MAX {
        let recorder = Recorder { device, seen: Mutex::default() };
        let report = pass(&recorder);
        let seen = recorder.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        if seen.superblock_changed {
            before = None;
            continue;
        }
        if before.as_ref() == Some(&seen.contents) {
            return Ok(report);
        }
        before = Some(seen.contents);
    }
    Err(NeverAtRest)
}

/// Digests of the blocks that were read; `None` for an unreadable block.
type Contents = BTreeMap<u64, Option<u64>>;

/// The reads of one pass.
#[derive(Default)]
struct Seen {
    contents: Contents,
    superblock_changed: bool,
}

/// Records the digests of all reads, and checks the superblock for changes.
struct Recorder<'a, D: ?Sized> {
    device: &'a D,
    seen: Mutex<Seen>,
}

impl<D: ReadDevice + ?Sized> Recorder<'_, D> {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn superblock_digest(&self) -> Option<u64> {
        let mut raw = RawBlock::ZERO;
        self.device.read(SUPERBLOCK, std::slice::from_mut(&mut raw)).ok().map(|()| digest(&raw))
    }
}

impl<D: ReadDevice + ?Sized> ReadDevice for Recorder<'_, D> {
    fn nr_blocks(&self) -> u64 {
        self.device.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        let changed = || Err(io::Error::other("the superblock has changed meanwhile"));
        if self.seen().superblock_changed {
            return changed();
        }
        let result = self.device.read(first, into);
        let digest = |block| result.is_ok().then(|| digest(block));
        let mut seen = self.seen();
        seen.contents.extend((first.0..).zip(into.iter().map(digest)));
        let begun_with = seen.contents.get(&SUPERBLOCK.0).copied();
        if first != SUPERBLOCK && begun_with != Some(self.superblock_digest()) {
            seen.superblock_changed = true;
            return changed();
        }
        drop(seen);
        result
    }
}

/// Returns the checksums of both halves. Different blocks have the same digest only by chance.
fn digest(block: &RawBlock) -> u64 {
    let (low, high) = block.bytes().split_at(persistent_data::BLOCK_SIZE / 2);
    u64::from(crc32c::crc32c(low)) << 32 | u64::from(crc32c::crc32c(high))
}
