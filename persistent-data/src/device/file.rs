//! A block device, or a regular file in its place.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zerocopy::IntoBytes;

use super::holders::holders;
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
#[derive(Debug)]
pub struct FileDevice<Access = ReadWrite> {
    file: File,
    size_bytes: u64,
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
        FileDevice { file: self.file, size_bytes: self.size_bytes, access: PhantomData }
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
        let file = open(path, purpose)?;
        Self::sized(file).map_err(|source| OpenError::new(path, source))
    }

    fn sized(file: File) -> io::Result<Self> {
        // The metadata of a block device say nothing about its size; its end does.
        let size_bytes = (&file).seek(SeekFrom::End(0))?;
        Ok(Self { file, size_bytes, access: PhantomData })
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
        match seek_data(&self.file, from.0 * BLOCK_SIZE as u64) {
            Ok(data) => BlockNr(data / BLOCK_SIZE as u64).clamp(from, end),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => end,
            // Block devices and some file systems know of no holes.
            Err(_) => from,
        }
    }
}

/// The first byte from `from` on that is not in a hole; ENXIO if there is none.
#[expect(unsafe_code, reason = "the standard library seeks no data")]
fn seek_data(file: &File, from: u64) -> io::Result<u64> {
    let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is touched. The
    // position that this changes is used by nobody: all reads and writes say where.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, libc::SEEK_DATA) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

impl Device for FileDevice {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        check_range(self.nr_blocks(), first, from.len())?;
        self.file.write_all_at(from.as_bytes(), first.0 * BLOCK_SIZE as u64)
    }

    /// `fdatasync` is enough. Like `fsync` it empties the disk's own cache, and it stores what it
    /// takes to find the data of a sparse file again; all it leaves out are times. The size never
    /// changes, for nothing is written past the end.
    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Read,
    Write,
    Live,
}

/// What can be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    BlockDevice,
}

impl Kind {
    fn of(metadata: &Metadata) -> Option<Self> {
        let file_type = metadata.file_type();
        if file_type.is_block_device() {
            Some(Self::BlockDevice)
        } else if file_type.is_file() {
            Some(Self::File)
        } else {
            None
        }
    }
}

fn open(path: &Path, purpose: Purpose) -> Result<File, OpenError> {
    // Asked before opening: opening a FIFO blocks, opening a tape rewinds it, and what O_EXCL
    // means for anything but a block device is undefined.
    let metadata = fs::metadata(path).map_err(|source| OpenError::new(path, source))?;
    let kind = Kind::of(&metadata).ok_or_else(|| OpenError::unfit(path, &metadata))?;

    let flags = match (purpose, kind) {
        // The page cache may hold what was there before the kernel's target wrote past it.
        (Purpose::Live, _) => libc::O_DIRECT,
        (Purpose::Read | Purpose::Write, Kind::BlockDevice) => libc::O_EXCL,
        (Purpose::Read | Purpose::Write, Kind::File) => 0,
    };
    let mut options = OpenOptions::new();
    options.read(true).write(purpose == Purpose::Write).custom_flags(flags);
    let opened = match options.open(path) {
        // Not every file system has direct I/O. The cache of one that has none is its truth.
        Err(error)
            if purpose == Purpose::Live
                && kind == Kind::File
                && error.raw_os_error() == Some(libc::EINVAL) =>
        {
            options.custom_flags(0).open(path)
        }
        opened => opened,
    };
    let file = opened.map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy | io::ErrorKind::ExecutableFileBusy => {
            OpenError::in_use(path, &metadata)
        }
        _ => OpenError::new(path, source),
    })?;

    let opened = file.metadata().map_err(|source| OpenError::new(path, source))?;
    if Kind::of(&opened) != Some(kind) {
        let source = io::Error::other("it was replaced while it was being opened");
        return Err(OpenError::new(path, source));
    }
    if kind == Kind::File {
        lock(&file, path, purpose)?;
    }
    Ok(file)
}

/// Gives a file the protection that O_EXCL gives a block device.
fn lock(file: &File, path: &Path, purpose: Purpose) -> Result<(), OpenError> {
    let locked = match purpose {
        Purpose::Read => file.try_lock_shared(),
        Purpose::Write => file.try_lock(),
        Purpose::Live => Ok(()),
    };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(OpenError::InUse { path: path.to_owned(), holders: Vec::new() })
        }
        Err(TryLockError::Error(source)) => match source.raw_os_error() {
            // Where there are no locks nobody else can have one. That is no reason to refuse.
            Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK) => Ok(()),
            _ => Err(OpenError::new(path, source)),
        },
    }
}

/// Why a device could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("{path} does not exist")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// There is a directory.
    #[error("{path} is a directory; give a block device or a file")]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// There is a FIFO, a socket or a character device.
    #[error("{path} is neither a block device nor a regular file")]
    NotAFileOrBlockDevice {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else uses it.
    #[error("{path} is in use by {}; stop that first", enumerate(.holders))]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who uses it, in words: `` dm device `clone0` ``. Empty if that is not known.
        holders: Vec<String>,
    },
    /// The system does not let this user open it, or not for writing.
    #[error("no permission to open {path}; try as root, and see whether it is read-only")]
    PermissionDenied {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot open {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path },
            _ => Self::Io { path, source },
        }
    }

    fn unfit(path: &Path, metadata: &Metadata) -> Self {
        let path = path.to_owned();
        if metadata.is_dir() {
            Self::Directory { path }
        } else {
            Self::NotAFileOrBlockDevice { path }
        }
    }

    fn in_use(path: &Path, metadata: &Metadata) -> Self {
        let device = metadata.rdev();
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        Self::InUse { path: path.to_owned(), holders: holders(Path::new("/"), &number) }
    }
}

fn enumerate(holders: &[String]) -> String {
    match holders {
        [] => "another program".to_owned(),
        holders => holders.join(", "),
    }
}

#[cfg(test)]
mod tests;
