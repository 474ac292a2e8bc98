//! A source that is a block device or a file.

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

/// A block device, or a regular file in its place, that is only read.
///
/// It keeps nobody out: a source may well be mounted, or be the source of other clones. Once it was
/// found shorter than it was, nothing is read of it any more.
#[derive(Debug)]
pub struct FileSource {
    data: DataFile,
    /// The data that were found last. To find where data end takes some file systems as long as
    /// there are data, tmpfs for instance, and is asked at each copy.
    known: Mutex<Range<u64>>,
}

impl FileSource {
    /// Opens what lies at `path`.
    ///
    /// # Errors
    /// Any [`OpenError`] but [`InUse`](OpenError::InUse).
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, OpenError> {
        let lost = |how| io::Error::new(io::ErrorKind::UnexpectedEof, how);
        let data = DataFile::open(path.as_ref(), Purpose::Live, access, lost)?;
        Ok(Self { data, known: Mutex::new(0..0) })
    }

    /// What the system says of it now: of what was opened, whatever the path leads to meanwhile.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.data.file.metadata()
    }

    /// What a clone has to know of it.
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
    /// By the holes of a regular file. Of a block device nothing is known.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let known = lock(&self.known).clone();
        if known.contains(&offset) {
            return Ok(Extent { zeroes: false, end: known.end });
        }
        let extent = self.data.extent(offset)?;
        // Holes are looked at anew: what is taken for data is read, and so is right in any case.
        if !extent.zeroes {
            *lock(&self.known) = offset..extent.end;
        }
        Ok(extent)
    }
}

#[cfg(test)]
mod tests;
