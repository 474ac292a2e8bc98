//! Checking the metadata of a running clone.
//!
//! Copy-on-write leaves what a superblock reaches intact until the commit after the next one. But
//! no number in the superblock tells one commit from another: block numbers go round, so that a
//! superblock can come back bit by bit with other content below it. Two things keep that from
//! being taken for rest:
//!
//! - The superblock is read again after everything else that is read. A pass during which it was
//!   seen to change is worth nothing, and ends there.
//! - Two passes in a row must have read the same. Bits only go from zero to one, so an array block
//!   that is the same before and after was never another one in between.

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

/// Passes over the metadata before giving up.
pub const PASSES_MAX: u32 = 500;

/// The metadata changed during every pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the metadata changed during each of {PASSES_MAX} passes over it: the clone commits faster \
     than its metadata can be read. Suspend it meanwhile (dmsetup suspend, and resume after), or \
     stop hydration"
)]
pub struct NeverAtRest;

/// [Checks](check) the metadata of a clone that may be committing meanwhile. `device` must read
/// past any cache. The report is that of one commit.
///
/// # Errors
/// [`NeverAtRest`].
pub fn check_live<D: ReadDevice + ?Sized>(
    device: &D,
    scope: Scope,
    progress: &dyn Progress,
) -> Result<Report, NeverAtRest> {
    at_rest(device, |device| check(device, scope, progress))
}

/// [Reads](read) the metadata of a clone that may be committing meanwhile. `device` must read
/// past any cache. The report is that of one commit.
///
/// # Errors
/// [`NeverAtRest`].
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

/// Digests of what was read, by block; `None` for what could not be read.
type Contents = BTreeMap<u64, Option<u64>>;

/// What a pass has seen.
#[derive(Default)]
struct Seen {
    contents: Contents,
    superblock_changed: bool,
}

/// Notes what is read, and watches the superblock meanwhile.
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

/// The checksums of either half: blocks that differ have the same by chance alone, once in 2^32.
fn digest(block: &RawBlock) -> u64 {
    let (low, high) = block.bytes().split_at(persistent_data::BLOCK_SIZE / 2);
    u64::from(crc32c::crc32c(low)) << 32 | u64::from(crc32c::crc32c(high))
}
