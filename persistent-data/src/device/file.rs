//! A block device, or a regular file in its place.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom as Position;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::open::{Caching, Kind, OpenError, Purpose, open};
use super::{Device, ReadDevice, check_range};
use crate::block::RawBlock;
use crate::number::{BLOCK_SIZE, BlockNr};

/// Of a [`FileDevice`]: it is not a [`Device`].
#[derive(Debug)]
pub enum ReadOnly {}

/// Of a [`FileDevice`]: it is a [`Device`].
#[derive(Debug)]
pub enum ReadWrite {}

/// A block device, or a regular file in its place.
///
/// Its size is the one at the time of opening. What is left of it after the last whole block is
/// no part of the device: it is never written, and read only as the [`tail`](FileDevice::tail).
///
/// A flush fails if the device has become shorter, or if it is a file that was deleted: what was
/// written is then not there, or not for long.
#[derive(Debug)]
pub struct FileDevice<Access = ReadWrite> {
    file: File,
    size_bytes: u64,
    is_block_device: bool,
    /// Whether it had no name any more when it was opened, so that it can lose none.
    was_deleted: bool,
    access: PhantomData<Access>,
}

impl FileDevice<ReadOnly> {
    /// Opens what lies at `path` for reading, and keeps writers out: a block device is claimed
    /// exclusively, a file gets a shared lock.
    ///
    /// # Errors
    /// Any [`OpenError`]. [`InUse`](OpenError::InUse) if a block device is mounted, used by the
    /// kernel or claimed by somebody else, or if a file is open for writing as a `FileDevice`.
    pub fn open_read(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open(path.as_ref(), Purpose::Read)
    }

    /// Opens what lies at `path` for reading while it may be in use. What is read is what the
    /// device holds at that moment: two reads need not belong to the same commit.
    ///
    /// # Errors
    /// Any [`OpenError`] but [`InUse`](OpenError::InUse).
    pub fn open_live(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open(path.as_ref(), Purpose::Live)
    }
}

impl FileDevice {
    /// Opens what lies at `path` for reading and writing, and keeps everybody else out but those
    /// who read it [live](FileDevice::open_live): a block device is claimed exclusively, a file is
    /// locked.
    ///
    /// # Errors
    /// Any [`OpenError`]. [`InUse`](OpenError::InUse) if a block device is mounted, used by the
    /// kernel or claimed by somebody else, or if a file is open as a `FileDevice`.
    pub fn open_write(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open(path.as_ref(), Purpose::Write)
    }

    /// A device of a file that is open already, which it neither claims nor locks. It must not be
    /// open for appending, or writes go astray; if it is not open for writing at all they fail.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if it is neither a regular file nor a block device, and
    /// whatever the system says when it is asked for the size.
    pub fn from_file(file: File) -> io::Result<Self> {
        if Kind::of(&file.metadata()?).is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a block device nor a regular file",
            ));
        }
        Self::sized(file)
    }

    /// Gives up writing. What was claimed or locked stays so.
    pub fn read_only(self) -> FileDevice<ReadOnly> {
        let Self { file, size_bytes, is_block_device, was_deleted, .. } = self;
        FileDevice { file, size_bytes, is_block_device, was_deleted, access: PhantomData }
    }
}

impl<Access> FileDevice<Access> {
    /// Bytes on the device, a part of a block at its end included.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes after the last whole block, fewer than a block has. Not for a device that was
    /// opened [live](FileDevice::open_live): direct I/O reads no such pieces.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn tail(&self) -> io::Result<Vec<u8>> {
        let begin = self.nr_blocks_in_file() * BLOCK_SIZE as u64;
        let mut tail = vec![0; (self.size_bytes - begin) as usize];
        self.file.read_exact_at(&mut tail, begin)?;
        Ok(tail)
    }

    fn nr_blocks_in_file(&self) -> u64 {
        self.size_bytes / BLOCK_SIZE as u64
    }

    fn open(path: &Path, purpose: Purpose) -> Result<Self, OpenError> {
        // The page cache may hold what was there before the kernel's target wrote past it.
        let caching = match purpose {
            Purpose::Live => Caching::AvoidIfPossible,
            Purpose::Read | Purpose::Write => Caching::Use,
        };
        let file = open(path, purpose, caching)?;
        Self::sized(file).map_err(|source| OpenError::new(path, source))
    }

    fn sized(file: File) -> io::Result<Self> {
        // The metadata of a block device say nothing about its size; its end does.
        let size_bytes = (&file).seek(SeekFrom::End(0))?;
        let metadata = file.metadata()?;
        let is_block_device = Kind::of(&metadata) == Some(Kind::BlockDevice);
        let was_deleted = metadata.nlink() == 0;
        Ok(Self { file, size_bytes, is_block_device, was_deleted, access: PhantomData })
    }

    /// Fails if what was written is not there any more, or not for long.
    fn check_lasts(&self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        let size_bytes = match self.is_block_device {
            true => rustix::fs::seek(&self.file, Position::End(0))?,
            false => metadata.len(),
        };
        let told = if size_bytes < self.size_bytes {
            let had = self.size_bytes;
            format!(
                "it has become shorter: it had {had} bytes when it was opened, and {size_bytes} now"
            )
        } else if metadata.nlink() == 0 && !self.was_deleted && !self.is_block_device {
            "it has been deleted: what is in it is gone when it is closed".to_owned()
        } else {
            return Ok(());
        };
        Err(io::Error::other(told))
    }
}

impl<Access> AsFd for FileDevice<Access> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<Access: Send + Sync> ReadDevice for FileDevice<Access> {
    fn nr_blocks(&self) -> u64 {
        self.nr_blocks_in_file()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        check_range(self.nr_blocks(), first, into.len())?;
        self.file.read_exact_at(into.as_mut_bytes(), first.0 * BLOCK_SIZE as u64)
    }

    fn skip_hole(&self, from: BlockNr) -> BlockNr {
        let end = BlockNr(self.nr_blocks());
        if from >= end {
            return end;
        }
        match rustix::fs::seek(&self.file, Position::Data(from.0 * BLOCK_SIZE as u64)) {
            Ok(data) => BlockNr(data / BLOCK_SIZE as u64).clamp(from, end),
            Err(Errno::NXIO) => end,
            // Block devices and some file systems know of no holes.
            Err(_) => from,
        }
    }
}

impl Device for FileDevice {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        check_range(self.nr_blocks(), first, from.len())?;
        // A write of the last block would make a file as long as it was that has become shorter.
        if first.0 + from.len() as u64 == self.nr_blocks() {
            self.check_lasts()?;
        }
        self.file.write_all_at(from.as_bytes(), first.0 * BLOCK_SIZE as u64)
    }

    /// `fdatasync` is enough. Like `fsync` it empties the disk's own cache, and it stores what it
    /// takes to find the data of a sparse file again; all it leaves out are times. The size never
    /// changes, for nothing is written past the end.
    fn flush(&self) -> io::Result<()> {
        let flushed = self.file.sync_data();
        self.check_lasts().and(flushed)
    }
}

#[cfg(test)]
mod tests;
