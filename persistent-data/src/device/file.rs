//! A block device, or a regular file that takes its place.

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

/// Marks a [`FileDevice`] that is not a [`Device`].
#[derive(Debug)]
pub enum ReadOnly {}

/// Marks a [`FileDevice`] that is a [`Device`].
#[derive(Debug)]
pub enum ReadWrite {}

/// A block device, or a regular file that takes its place.
///
/// Its size is the size at the time of opening. A partial block at the end is not part of the
/// device: it is never written, and only [`tail`](FileDevice::tail) reads it.
///
/// A flush fails if the device has become shorter, or if it is a file that was deleted: the written
/// data are then lost, or will be when the file is closed.
#[derive(Debug)]
pub struct FileDevice<Access = ReadWrite> {
    file: File,
    size_bytes: u64,
    is_block_device: bool,
    /// True if the file was already deleted when it was opened.
    was_deleted: bool,
    access: PhantomData<Access>,
}

impl FileDevice<ReadOnly> {
    /// Opens the device at `path` for reading, and excludes writers: a block device is claimed
    /// exclusively, a file gets a shared lock.
    ///
    /// # Errors
    /// Any [`OpenError`]. [`InUse`](OpenError::InUse) if a block device is mounted, used by the
    /// kernel or claimed by another process, or if a file is open for writing as a `FileDevice`.
    pub fn open_read(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open(path.as_ref(), Purpose::Read)
    }

    /// Opens the device at `path` for reading while it may be in use. A read returns the present
    /// content of the device: two reads may belong to different commits.
    ///
    /// # Errors
    /// Any [`OpenError`] but [`InUse`](OpenError::InUse).
    pub fn open_live(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open(path.as_ref(), Purpose::Live)
    }
}

impl FileDevice {
    /// Opens the device at `path` for reading and writing, and excludes all others except
    /// [live](FileDevice::open_live) readers: a block device is claimed exclusively, a file is
    /// locked.
    ///
    /// # Errors
    /// Any [`OpenError`]. [`InUse`](OpenError::InUse) if a block device is mounted, used by the
    /// kernel or claimed by another process, or if a file is open as a `FileDevice`.
    pub fn open_write(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open(path.as_ref(), Purpose::Write)
    }

    /// Makes a device of an open file, without claiming or locking it. The file must not be open
    /// for appending, since writes would then go to the wrong place. If it is not open for writing,
    /// writes fail.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if it is neither a regular file nor a block device, and the
    /// error of the system if its size cannot be determined.
    pub fn from_file(file: File) -> io::Result<Self> {
        if Kind::of(&file.metadata()?).is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a block device nor a regular file",
            ));
        }
        Self::sized(file)
    }

    /// Returns the device without write access. Claims and locks stay.
    pub fn read_only(self) -> FileDevice<ReadOnly> {
        let Self { file, size_bytes, is_block_device, was_deleted, .. } = self;
        FileDevice { file, size_bytes, is_block_device, was_deleted, access: PhantomData }
    }
}

impl<Access> FileDevice<Access> {
    /// Returns the size in bytes, including a partial block at the end.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads the bytes after the last whole block, fewer than a block. It does not work for a
    /// device that was opened [live](FileDevice::open_live), because direct I/O cannot read partial
    /// blocks.
    ///
    /// # Errors
    /// The error of the read.
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
        // The page cache may be stale, since the kernel's target bypasses it.
        let caching = match purpose {
            Purpose::Live => Caching::AvoidIfPossible,
            Purpose::Read | Purpose::Write => Caching::Use,
        };
        let file = open(path, purpose, caching)?;
        Self::sized(file).map_err(|source| OpenError::new(path, source))
    }

    fn sized(file: File) -> io::Result<Self> {
        // The metadata of a block device does not tell its size, but seeking to its end does.
        let size_bytes = (&file).seek(SeekFrom::End(0))?;
        let metadata = file.metadata()?;
        let is_block_device = Kind::of(&metadata) == Some(Kind::BlockDevice);
        let was_deleted = metadata.nlink() == 0;
        Ok(Self { file, size_bytes, is_block_device, was_deleted, access: PhantomData })
    }

    /// Fails if the written data are lost or will be lost when the file is closed.
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
            // Block devices and some file systems do not report holes.
            Err(_) => from,
        }
    }
}

impl Device for FileDevice {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        check_range(self.nr_blocks(), first, from.len())?;
        // If a file has become shorter, a write of the last block would restore its length.
        if first.0 + from.len() as u64 == self.nr_blocks() {
            self.check_lasts()?;
        }
        self.file.write_all_at(from.as_bytes(), first.0 * BLOCK_SIZE as u64)
    }

    /// `fdatasync` is enough. Like `fsync` it flushes the disk's cache and stores the metadata that
    /// is needed to find the data of a sparse file. It omits only timestamps. The size never
    /// changes, because nothing is written past the end.
    fn flush(&self) -> io::Result<()> {
        let flushed = self.file.sync_data();
        self.check_lasts().and(flushed)
    }
}

#[cfg(test)]
mod tests;
