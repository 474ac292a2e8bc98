//! A block device or a file as a destination.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use persistent_data::device::{OpenError, Purpose};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use self::release::release;
use super::aligned::AlignedBuf;
use super::data_file::{Access, DataFile};
use super::device::{Destination, DestinationLost, Extent};
use super::direct::Direct;
use super::range_locks::RangeLock;
use super::tail::Tail;
use super::writes::Writes;
use crate::block_io::device::ReadData;
use crate::dm_target::DeviceLimits;
use crate::sync::lock;

/// A block device, or a regular file used as one, for exclusive use: a block device is claimed
/// exclusively, a file is locked.
///
/// Neither prevents another program from truncating the file. The next write then makes it longer
/// again, with zeroes in between.
///
/// *Invariant:* no write makes a truncated file as long as it was: writes that reach its end go
/// through a `Tail`. *Invariant:* before data or an extent is returned, the file has been seen with
/// its full size, after all writes that were in flight until then; likewise before a flush
/// succeeds. Zeroes in place of truncated data are therefore never returned, and nothing is
/// committed on top of them.
#[derive(Debug)]
pub struct FileDestination {
    data: DataFile,
    /// For a regular file that is not empty.
    tail: Option<Tail>,
    writes: Writes,
    flushes: Flushes,
    /// Held during one piece of a large write to a file.
    turn: Mutex<()>,
}

/// Minimum alignment of holes, in bytes. Block devices may have larger blocks and refuse ranges
/// that are not aligned to them; file systems with larger blocks write the zeroes at the ends of a
/// hole themselves.
const GRANULE: u64 = 4096;

/// Maximum size of one write to the page cache, in bytes. Data written at once is one unit there,
/// and the larger that is, the longer a later small write to it takes.
const CACHED_WRITE_MAX: usize = 64 << 10;

/// Minimum size of a large write, and the size of its pieces, between which other writes have their
/// turn, in bytes.
const LARGE: usize = 128 << 10;
const PIECE: usize = 1 << 20;

static ZEROES: LazyLock<AlignedBuf> = LazyLock::new(|| AlignedBuf::new(1 << 20));

impl FileDestination {
    /// Opens the device or file at `path`, which must exist.
    ///
    /// # Errors
    /// Any [`OpenError`]: [`InUse`](OpenError::InUse) if a block device is mounted, used by the
    /// kernel or claimed by another process, or if a file is locked;
    /// [`NoDirectIo`](OpenError::NoDirectIo) if `access` asks for direct I/O and it is not
    /// supported; [`Io`](OpenError::Io) if the size is not a multiple of the alignment of direct
    /// I/O, or another system call fails; the other variants if it cannot be opened.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let lost = |how| DestinationLost(how).into();
        let data = DataFile::open(path, Purpose::Write, access, lost)?;
        if let Some(unit) = data.direct.as_ref().map(Direct::unit)
            && !data.size_bytes.is_multiple_of(unit)
        {
            let source = io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "it has {} bytes, and direct I/O writes multiples of {unit} there; make it \
                     larger, or use the page cache",
                    data.size_bytes
                ),
            );
            return Err(OpenError::new(path, source));
        }
        let unit = data.direct.as_ref().map_or(1, Direct::unit);
        let has_tail = !data.is_block_device && data.size_bytes > 0;
        let tail = has_tail.then(|| Tail::new(&data.file, data.size_bytes, unit));
        Ok(Self {
            data,
            tail,
            writes: Writes::default(),
            flushes: Flushes::default(),
            turn: Mutex::default(),
        })
    }

    /// Returns the limits of the device, to be checked by a clone.
    pub fn limits(&self) -> DeviceLimits {
        self.data.limits()
    }

    /// Fails if the data just read, or the extent just found, may be zeroes in place of truncated
    /// data.
    fn look(&self) -> io::Result<()> {
        self.writes.look(|| self.data.check())
    }

    fn write_parts(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(tail) = &self.tail else {
            return self.write_front(offset, data);
        };
        let front = tail.begin().saturating_sub(offset).min(data.len() as u64) as usize;
        let _under_way = self.writes.begin();
        if front == data.len() {
            return self.write_front(offset, data);
        }
        let (front, rest) = data.split_at(front);
        self.write_front(offset, front)?;
        self.write_tail(tail, offset + front.len() as u64, rest)
    }

    /// Writes data that does not reach the end of a file, or any data to a block device.
    fn write_front(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &self.data.direct {
            None => self.write_buffered(offset, data),
            Some(direct) => direct.write(&self.data.file, offset, data),
        }
    }

    fn write_tail(&self, tail: &Tail, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = offset..offset + data.len() as u64;
        for _ in 0..2 {
            match tail.write(offset, data) {
                Some(Err(error)) if Errno::from_io_error(&error) == Some(Errno::FAULT) => {
                    self.data.check()?;
                    // The file was not truncated, so it may be out of space, which this call
                    // reports.
                    if !self.allocate(FallocateFlags::empty(), &range)? {
                        break;
                    }
                }
                Some(written) => return written,
                None => break,
            }
        }
        // Data that cannot be written through the mapping is written normally. A truncation between
        // the check and the write is not detected.
        self.data.check()?;
        self.write_front(offset, data)
    }

    /// Writes through the page cache. A file system allows only one thread at a time to write to a
    /// file, and waiting threads use up a core each. Large writes therefore wait for each other
    /// here, and give way to smaller ones after each piece.
    fn write_buffered(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.data.is_block_device || data.len() < LARGE {
            return self.write_cached(offset, data);
        }
        for (piece, at) in data.chunks(PIECE).zip((offset..).step_by(PIECE)) {
            let turn = lock(&self.turn);
            self.write_cached(at, piece)?;
            drop(turn);
            self.begin_writeback(at, piece.len());
        }
        Ok(())
    }

    /// Starts the writeback of written data while more is being copied, so that a flush has less to
    /// do. Data under writeback stays in the cache.
    fn begin_writeback(&self, offset: u64, len: usize) {
        // This is only advice: an error is no failure.
        let _ = fadvise(&self.data.file, offset, NonZeroU64::new(len as u64), Advice::DontNeed);
    }

    fn write_cached(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let pieces = data.chunks(CACHED_WRITE_MAX).zip((offset..).step_by(CACHED_WRITE_MAX));
        for (piece, at) in pieces {
            self.data.file.write_all_at(piece, at)?;
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZEROES.len() as u64);
            self.write_at(at, &ZEROES[..len as usize])?;
            at += len;
        }
        Ok(())
    }

    fn make_zeroes(&self, range: Range<u64>, deallocate: bool) -> io::Result<()> {
        if range.is_empty() || deallocate && self.data.is_hole(&range)? {
            return Ok(());
        }
        let Some(whole) = self.whole_granules(&range) else {
            return self.write_zeroes(range);
        };
        self.write_zeroes(range.start..whole.start)?;
        self.write_zeroes(whole.end..range.end)?;
        let locked = self.lock_whole(&whole);
        let is_done = deallocate && self.allocate(FallocateFlags::PUNCH_HOLE, &whole)?
            || self.allocate(FallocateFlags::ZERO_RANGE, &whole)?;
        drop(locked);
        if is_done { Ok(()) } else { self.write_zeroes(whole) }
    }

    /// Returns the alignment of holes, in bytes: a power of two.
    fn granule(&self) -> u64 {
        let unit = self.data.direct.as_ref().map_or(1, Direct::unit);
        unit.max(self.data.logical_block_size).max(GRANULE)
    }

    /// Returns the part of `range` that can become a hole while other writes change the rest;
    /// `None` if it is empty.
    fn whole_granules(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let granule = self.granule();
        let whole = range.start.next_multiple_of(granule)..range.end - range.end % granule;
        (whole.start < whole.end).then_some(whole)
    }

    /// Locks whole granules against writes to parts of blocks, while they are changed.
    fn lock_whole(&self, whole: &Range<u64>) -> Option<RangeLock<'_>> {
        self.data.direct.as_ref().map(|direct| direct.lock_whole(whole.clone()))
    }

    /// Returns true if the device did it, and false if it does not support it.
    fn allocate(&self, mode: FallocateFlags, range: &Range<u64>) -> io::Result<bool> {
        let mode = mode | FallocateFlags::KEEP_SIZE;
        let len = range.end - range.start;
        can(retry_on_intr(|| fallocate(&self.data.file, mode, range.start, len)))
    }
}

/// Returns whether the operation is supported.
fn can(tried: rustix::io::Result<()>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl ReadData for FileDestination {
    fn size_bytes(&self) -> u64 {
        self.data.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.data.read_at(offset, into)?;
        self.look()
    }
}

impl Destination for FileDestination {
    fn block_bytes(&self) -> u64 {
        self.granule()
    }

    /// Reports the holes of a regular file. A block device reports only data.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let extent = self.data.extent(offset)?;
        self.look()?;
        Ok(extent)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.data.check_range(offset, data.len() as u64)?;
        self.data.check_known()?;
        self.write_parts(offset, data).map_err(|error| self.data.explain(error))
    }

    fn zero(&self, range: Range<u64>, deallocate: bool) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        self.data.check_range(range.start, len)?;
        self.data.check_known()?;
        self.make_zeroes(range, deallocate).map_err(|error| self.data.explain(error))
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.data.check_range(range.start, range.end.saturating_sub(range.start))?;
        self.data.check_known()?;
        let Some(whole) = self.whole_granules(&range) else {
            return Ok(());
        };
        let _locked = self.lock_whole(&whole);
        let discarded = match self.data.is_block_device {
            true => can(discard_blocks(&self.data.file, &whole)),
            false => self.allocate(FallocateFlags::PUNCH_HOLE, &whole),
        };
        discarded.map(drop).map_err(|error| self.data.explain(error))
    }

    /// `fdatasync` is enough. Like `fsync`, it flushes the disk's cache and stores the metadata
    /// required to find the data of a sparse file; it omits only timestamps.
    fn flush(&self) -> io::Result<()> {
        self.data.check_known()?;
        self.flushes.run(|| {
            let flushed = self.data.file.sync_data();
            self.data.check_lasts().and(flushed)
        })
    }

    /// Remaining holders then have an empty file that cannot be written.
    fn release(&self) {
        release(&self.data.file);
    }
}

/// Discards whole blocks of a block device. `fallocate` can only request zeroes, which a device
/// with discard support may not be able to guarantee.
#[expect(unsafe_code, reason = "no crate has a safe call for it")]
fn discard_blocks(device: &File, range: &Range<u64>) -> rustix::io::Result<()> {
    const BLKDISCARD: Opcode = opcode::none(0x12, 119);
    let (start, len) = (range.start, range.end - range.start);
    // SAFETY: BLKDISCARD reads two u64, a start and a length.
    let request = unsafe { Setter::<BLKDISCARD, [u64; 2]>::new([start, len]) };
    // SAFETY: the device is open, and was found to be a block device. No memory is written.
    unsafe { ioctl(device, request) }
}

/// The state of the flushes of a device.
///
/// *Invariant:* after a failed flush all later ones fail. The kernel reports a lost write only
/// once, and the next flush would succeed despite the loss. For the same reason flushes run one at
/// a time: a concurrent flush could receive the error of a write that belonged to the other one.
#[derive(Debug, Default)]
struct Flushes {
    failed: Mutex<Option<String>>,
}

impl Flushes {
    fn run(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.failed.lock().expect("nothing panics with the lock held");
        if let Some(failure) = &*failed {
            return Err(io::Error::other(format!("an earlier flush failed: {failure}")));
        }
        flush().inspect_err(|error| *failed = Some(error.to_string()))
    }
}

mod release;
#[cfg(test)]
mod tests;
