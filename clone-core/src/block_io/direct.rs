//! Direct I/O at any alignment.
//!
//! Source and destination files use it if the page cache is to be bypassed.
//!
//! *Invariant:* if concurrent writes overlap, each byte ends as one of them wrote it. A write to a
//! part of a block reads the block, changes the part and writes the block back, under an exclusive
//! lock of the block. A change of whole blocks (write, zero or discard) holds a shared lock of
//! them: such changes do not wait for each other.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::aligned::AlignedBuf;
use super::range_locks::{Mode, RangeLock, RangeLocks};

/// Parameters and locks for direct I/O on a device.
#[derive(Debug)]
pub(super) struct Direct {
    /// Alignment of offsets and lengths, in bytes.
    unit: u64,
    /// Alignment of memory addresses, in bytes.
    memory: usize,
    /// Locks of whole blocks.
    locks: RangeLocks,
}

/// Maximum size of a bounce buffer, in bytes.
const BOUNCE_MAX: u64 = 1 << 20;

impl Direct {
    /// For a device that requires ranges aligned to `unit` bytes, and memory aligned to `memory`
    /// bytes. Both are powers of two.
    pub(super) fn new(unit: u64, memory: usize) -> Self {
        Self { unit, memory, locks: RangeLocks::default() }
    }

    /// Returns the alignment of offsets and lengths, in bytes.
    pub(super) fn unit(&self) -> u64 {
        self.unit
    }

    /// Locks `blocks` against writes to parts of blocks, while they are changed as a whole.
    pub(super) fn lock_whole(&self, blocks: Range<u64>) -> RangeLock<'_> {
        self.locks.lock(blocks, Mode::Shared)
    }

    /// Returns true if the device accepts the request without a bounce buffer.
    fn fits(&self, offset: u64, data: &[u8]) -> bool {
        offset.is_multiple_of(self.unit)
            && (data.len() as u64).is_multiple_of(self.unit)
            && data.as_ptr().addr().is_multiple_of(self.memory)
    }

    fn begin_of_block(&self, offset: u64) -> u64 {
        offset - offset % self.unit
    }

    /// Allocates a bounce buffer for the blocks from `begin` to `end`, of limited size.
    fn bounce(&self, begin: u64, end: u64) -> AlignedBuf {
        let span = end.next_multiple_of(self.unit) - self.begin_of_block(begin);
        AlignedBuf::new(span.min(BOUNCE_MAX.max(self.unit)) as usize)
    }

    /// Fills `into`. The end of a file may cut off the last block.
    pub(super) fn read(&self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if self.fits(offset, into) {
            return self.fill(file, offset, into, into.len());
        }
        let end = offset + into.len() as u64;
        let mut bounce = self.bounce(offset, end);
        let mut at = offset;
        while at < end {
            let begin = self.begin_of_block(at);
            let stop = end.next_multiple_of(self.unit).min(begin + bounce.len() as u64);
            let wanted = (at - begin) as usize..(stop.min(end) - begin) as usize;
            let blocks = &mut bounce[..(stop - begin) as usize];
            self.fill(file, begin, blocks, wanted.end)?;
            into[(at - offset) as usize..][..wanted.len()].copy_from_slice(&blocks[wanted.clone()]);
            at = stop.min(end);
        }
        Ok(())
    }

    /// Reads whole blocks into `blocks` until at least `needed` bytes of it are filled.
    fn fill(&self, file: &File, begin: u64, blocks: &mut [u8], needed: usize) -> io::Result<()> {
        let mut filled = 0;
        while filled < needed {
            match file.read_at(&mut blocks[filled..], begin + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Only the end of a file lies within a block, and no data follows it.
            if filled < needed && !(filled as u64).is_multiple_of(self.unit) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Writes `data`. All blocks that it touches must lie completely on the device.
    pub(super) fn write(&self, file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        if self.fits(offset, data) {
            let _locked = self.lock_whole(offset..end);
            return file.write_all_at(data, offset);
        }
        let head_end = offset.next_multiple_of(self.unit).min(end);
        let tail = self.begin_of_block(end).max(head_end);
        let (head, rest) = data.split_at((head_end - offset) as usize);
        let (whole, rest) = rest.split_at((tail - head_end) as usize);
        self.write_part(file, offset, head)?;
        self.write_whole(file, head_end, whole)?;
        self.write_part(file, tail, rest)
    }

    /// Writes a part of a block.
    fn write_part(&self, file: &File, offset: u64, part: &[u8]) -> io::Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let begin = self.begin_of_block(offset);
        let mut block = AlignedBuf::new(self.unit as usize);
        let _locked = self.locks.lock(begin..begin + self.unit, Mode::Exclusive);
        file.read_exact_at(&mut block, begin)?;
        block[(offset - begin) as usize..][..part.len()].copy_from_slice(part);
        file.write_all_at(&block, begin)
    }

    /// Writes whole blocks from memory that may be unaligned.
    fn write_whole(&self, file: &File, offset: u64, blocks: &[u8]) -> io::Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let _locked = self.lock_whole(offset..offset + blocks.len() as u64);
        if self.fits(offset, blocks) {
            return file.write_all_at(blocks, offset);
        }
        let mut bounce = self.bounce(offset, offset + blocks.len() as u64);
        let mut at = offset;
        for piece in blocks.chunks(bounce.len()) {
            bounce[..piece.len()].copy_from_slice(piece);
            file.write_all_at(&bounce[..piece.len()], at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
