//! A source that is a block device or a file.

use std::io;
use std::path::Path;

use persistent_data::device::{OpenError, Purpose};

use super::data_file::{Access, DataFile};
use super::device::{Extent, Source};
use crate::content::ReadData;
use crate::target::DeviceLimits;

/// A block device, or a regular file in its place, that is only read.
///
/// It keeps nobody out: a source may well be mounted, or be the source of other clones.
#[derive(Debug)]
pub struct FileSource(DataFile);

impl FileSource {
    /// Opens what lies at `path`.
    ///
    /// # Errors
    /// Any [`OpenError`] but [`InUse`](OpenError::InUse).
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, OpenError> {
        DataFile::open(path.as_ref(), Purpose::Live, access).map(Self)
    }

    /// What a clone has to know of it.
    pub fn limits(&self) -> DeviceLimits {
        self.0.limits()
    }
}

impl ReadData for FileSource {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, into)
    }
}

impl Source for FileSource {
    /// By the holes of a regular file. Of a block device nothing is known.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        self.0.extent(offset)
    }
}

#[cfg(test)]
mod tests;
