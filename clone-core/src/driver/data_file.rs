//! What the source and the destination of a clone have in common where they are files.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use persistent_data::device::{Caching, OpenError, Purpose, open};
use rustix::fs::{AtFlags, SeekFrom as Position, StatxFlags, ioctl_blksszget, statx};
use rustix::io::Errno;

use super::device::Extent;
use super::direct::Direct;
use crate::geometry::{SECTOR_SIZE, Sectors};
use crate::target::DeviceLimits;

/// How the data of a clone are read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Through the page cache.
    #[default]
    Buffered,
    /// Past the page cache, with O_DIRECT.
    Direct,
}

/// A block device, or a regular file in its place.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) file: File,
    path: PathBuf,
    /// As it was when it was opened.
    pub(super) size_bytes: u64,
    pub(super) is_block_device: bool,
    pub(super) logical_block_size: u64,
    pub(super) direct: Option<Direct>,
}

impl DataFile {
    pub(super) fn open(path: &Path, purpose: Purpose, access: Access) -> Result<Self, OpenError> {
        let refused = |source| OpenError::new(path, source);
        let caching = match access {
            Access::Buffered => Caching::Use,
            Access::Direct => Caching::Avoid,
        };
        let mut file = open(path, purpose, caching)?;
        let is_block_device = file.metadata().map_err(refused)?.file_type().is_block_device();
        // The metadata of a block device say nothing about its size; its end does.
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(refused)?;
        let logical_block_size = match is_block_device {
            true => ioctl_blksszget(&file).map_err(|error| refused(error.into()))?.into(),
            false => SECTOR_SIZE,
        };
        let direct = match access {
            Access::Buffered => None,
            Access::Direct => {
                let usual = if is_block_device { logical_block_size } else { FILE_UNIT };
                let Some(direct) = direct(&file, usual) else {
                    return Err(OpenError::NoDirectIo { path: path.to_owned() });
                };
                Some(direct)
            }
        };
        let path = path.to_owned();
        Ok(Self { file, path, size_bytes, is_block_device, logical_block_size, direct })
    }

    pub(super) fn limits(&self) -> DeviceLimits {
        DeviceLimits {
            size: Sectors(self.size_bytes / SECTOR_SIZE),
            logical_block_size: self.logical_block_size,
        }
    }

    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.check_range(offset, into.len() as u64)?;
        let read = match &self.direct {
            None => self.file.read_exact_at(into, offset),
            Some(direct) => direct.read(&self.file, offset, into),
        };
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut_off(),
            _ => error,
        })
    }

    /// Checks that `len` bytes from `offset` on lie on the device.
    pub(super) fn check_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let (path, size_bytes) = (self.path.display(), self.size_bytes);
        if offset.checked_add(len).is_some_and(|end| end <= size_bytes) {
            return Ok(());
        }
        let told =
            format!("{len} bytes from {offset} on reach past the end of {path} at {size_bytes}");
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, told))
    }

    /// The extent at `offset`. Without help from the file system all is data.
    pub(super) fn extent(&self, offset: u64) -> io::Result<Extent> {
        let size_bytes = self.size_bytes;
        let data = Extent { zeroes: false, end: size_bytes };
        if self.is_block_device || offset >= size_bytes {
            return Ok(data);
        }
        let end = self.end_of_hole(offset)?;
        if end > offset {
            return Ok(Extent { zeroes: true, end });
        }
        match rustix::fs::seek(&self.file, Position::Hole(offset)) {
            Ok(hole) if hole > offset => Ok(Extent { zeroes: false, end: hole.min(size_bytes) }),
            _ => Ok(data),
        }
    }

    /// Whether `range` is known to be a hole.
    pub(super) fn is_hole(&self, range: &Range<u64>) -> io::Result<bool> {
        Ok(!self.is_block_device && self.end_of_hole(range.start)? >= range.end)
    }

    /// Where the hole at `offset` of a regular file ends; `offset` if there is none.
    fn end_of_hole(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, Position::Data(offset)) {
            Ok(data) => Ok(data.clamp(offset, self.size_bytes)),
            Err(Errno::NXIO) => {
                // That there is no more data is also said of what lies past the end of a file.
                if self.file.metadata()?.len() < self.size_bytes {
                    return Err(self.cut_off());
                }
                Ok(self.size_bytes)
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
            Err(error) => Err(error.into()),
        }
    }

    fn cut_off(&self) -> io::Error {
        let (path, had) = (self.path.display(), self.size_bytes);
        let told = format!("{path} has become shorter: it had {had} bytes when it was opened");
        io::Error::new(io::ErrorKind::UnexpectedEof, told)
    }
}

/// What direct I/O on a file takes where the kernel does not tell: before Linux 6.1, and on some
/// file systems. None has blocks that are smaller and takes no more than those.
const FILE_UNIT: u64 = 4096;

/// How direct I/O is done on `file`; `usual` bytes at a time if the kernel does not tell. `None` if
/// it cannot be done.
fn direct(file: &File, usual: u64) -> Option<Direct> {
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let told = told
        .filter(|told| StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::DIOALIGN));
    let (unit, memory) = match told {
        Some(told) => (told.stx_dio_offset_align.into(), told.stx_dio_mem_align as usize),
        None => (usual, usual as usize),
    };
    // Zeroes say that this file cannot be read in this way, though others may.
    let is_possible = unit.is_power_of_two() && memory.is_power_of_two();
    is_possible.then(|| Direct::new(unit, memory))
}
