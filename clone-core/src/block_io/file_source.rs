//! A block device or a file as a source.

use std::fs::Metadata;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use persistent_data::device::{OpenError, Purpose};

use super::data_file::{Access, DataFile};
use super::device::{Extent, Source};
use crate::block_io::device::ReadData;
use crate::dm_target::DeviceLimits;
use crate::sync::lock;

/// A read-only block device, or a regular file used as one.
///
/// It takes no lock: a source may be mounted, or be the source of other clones. Once it has been
/// found shorter than at open, all reads fail.
#[derive(Debug)]
pub struct FileSource {
    data: DataFile,
    /// The data extent found last. On some file systems, for instance tmpfs, finding the end of
    /// data takes time proportional to the data, and each copy asks for it.
    known: Mutex<Range<u64>>,
}

impl FileSource {
    /// Opens the device or file at `path`.
    ///
    /// # Errors
    /// Any [`OpenError`] but [`InUse`](OpenError::InUse): [`NoDirectIo`](OpenError::NoDirectIo) if
    /// `access` asks for direct I/O and the file system does not support it; the other variants if
    /// the file cannot be opened.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, OpenError> {
        let lost = |how| io::Error::new(io::ErrorKind::UnexpectedEof, how);
        let data = DataFile::open(path.as_ref(), Purpose::Live, access, lost)?;
        Ok(Self { data, known: Mutex::new(0..0) })
    }

    /// Returns the current metadata of the open file, even if the path now leads to another one.
    ///
    /// # Errors
    /// The error of the `stat` system call.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.data.file.metadata()
    }

    /// Returns the limits of the device, to be checked by a clone.
    pub fn limits(&self) -> DeviceLimits {
        self.data.limits()
    }
}

impl ReadData for FileSource {
    fn size_bytes(&self) -> u64 {
        self.data.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.data.read_at(offset, into)
    }
}

impl Source for FileSource {
    /// Reports the holes of a regular file. A block device reports only data.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let known = lock(&self.known).clone();
        if known.contains(&offset) {
            return Ok(Extent { zeroes: false, end: known.end });
        }
        let extent = self.data.extent(offset)?;
        // Holes are looked up anew: data is read anyway, so an old extent of data is always
        // correct.
        if !extent.zeroes {
            *lock(&self.known) = offset..extent.end;
        }
        Ok(extent)
    }
}

#[cfg(test)]
mod tests;
