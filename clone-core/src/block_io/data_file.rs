//! Files and block devices as the source and the destination of a clone: their common part.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use persistent_data::device::{Caching, OpenError, Purpose, open};
use rustix::fs::{AtFlags, SeekFrom as Position, StatxFlags, fstat, ioctl_blksszget, statx};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use super::aligned::ALIGNMENT;
use super::device::Extent;
use super::direct::Direct;
use crate::dm_target::DeviceLimits;
use crate::geometry::{SECTOR_SIZE, Sectors};

/// The way in which the data of a clone is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Through the page cache.
    #[default]
    Buffered,
    /// Past the page cache, with O_DIRECT.
    Direct,
}

/// A block device, or a regular file used as one.
///
/// *Invariant:* once it has been seen to be shorter than at open, every operation fails, even if it
/// becomes longer again: the part that was cut off then reads as zeroes.
#[derive(Debug)]
pub(super) struct DataFile {
    pub(super) file: File,
    path: PathBuf,
    /// Size at open, in bytes.
    pub(super) size_bytes: u64,
    pub(super) is_block_device: bool,
    pub(super) logical_block_size: u64,
    pub(super) direct: Option<Direct>,
    /// True if it had no name at open, so that it can lose none.
    was_deleted: bool,
    /// Description of the shortening, once it was seen.
    cut_off: OnceLock<String>,
    /// Makes an error from that description.
    lost: Lost,
}

/// Makes an error from a description of a device that has become shorter.
pub(super) type Lost = fn(String) -> io::Error;

impl DataFile {
    pub(super) fn open(
        path: &Path,
        purpose: Purpose,
        access: Access,
        lost: Lost,
    ) -> Result<Self, OpenError> {
        let refused = |source| OpenError::new(path, source);
        let caching = match access {
            Access::Buffered => Caching::Use,
            Access::Direct => Caching::Avoid,
        };
        let mut file = open(path, purpose, caching)?;
        let metadata = file.metadata().map_err(refused)?;
        let is_block_device = metadata.file_type().is_block_device();
        // The metadata of a block device does not contain its size; the end position does.
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
        if is_block_device && direct.is_none() {
            set_cache_blocks(&file, logical_block_size);
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            size_bytes,
            is_block_device,
            logical_block_size,
            direct,
            was_deleted: metadata.nlink() == 0,
            cut_off: OnceLock::new(),
            lost,
        })
    }

    pub(super) fn limits(&self) -> DeviceLimits {
        DeviceLimits {
            size: Sectors(self.size_bytes / SECTOR_SIZE),
            logical_block_size: self.logical_block_size,
        }
    }

    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.check_known()?;
        self.check_range(offset, into.len() as u64)?;
        let read = match &self.direct {
            None => self.file.read_exact_at(into, offset),
            Some(direct) => direct.read(&self.file, offset, into),
        };
        read.map_err(|error| match error.kind() {
            // The file did end before, whatever its size is now.
            io::ErrorKind::UnexpectedEof => self.set_cut_off(self.size_now().ok()),
            _ => self.explain(error),
        })
    }

    /// Fails if it has been seen to be shorter than at open.
    pub(super) fn check_known(&self) -> io::Result<()> {
        match self.cut_off.get() {
            Some(how) => Err((self.lost)(how.clone())),
            None => Ok(()),
        }
    }

    /// Checks the current size, and fails now and always if it is shorter than at open.
    pub(super) fn check(&self) -> io::Result<()> {
        self.check_known()?;
        match self.size_now()? {
            size if size < self.size_bytes => Err(self.set_cut_off(Some(size))),
            _ => Ok(()),
        }
    }

    /// Checks the size like [`check`](Self::check), and that the data survives the close of the
    /// file.
    pub(super) fn check_lasts(&self) -> io::Result<()> {
        self.check()?;
        if self.was_deleted || self.is_block_device || fstat(&self.file)?.st_nlink > 0 {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} has been deleted: what is in it is gone when it is closed. Copy what is needed \
             through the clone before you end it",
            self.path.display()
        )))
    }

    /// Returns the cause of `error`: the shortening, if there was one, or else `error` itself.
    pub(super) fn explain(&self, error: io::Error) -> io::Error {
        self.check().err().unwrap_or(error)
    }

    fn size_now(&self) -> io::Result<u64> {
        if self.is_block_device {
            return Ok(rustix::fs::seek(&self.file, Position::End(0))?);
        }
        Ok(fstat(&self.file)?.st_size.try_into().unwrap_or(0))
    }

    fn set_cut_off(&self, has: Option<u64>) -> io::Error {
        let how = self.cut_off.get_or_init(|| {
            let (path, had) = (self.path.display(), self.size_bytes);
            let now = has.filter(|&has| has < had).map(|has| format!(", and has {has}"));
            let now = now.unwrap_or_default();
            format!("{path} has become shorter: it had {had} bytes when it was opened{now}")
        });
        (self.lost)(how.clone())
    }

    /// Checks that `len` bytes at `offset` lie on the device.
    pub(super) fn check_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let (path, size_bytes) = (self.path.display(), self.size_bytes);
        if offset.checked_add(len).is_some_and(|end| end <= size_bytes) {
            return Ok(());
        }
        let told =
            format!("{len} bytes from {offset} on reach past the end of {path} at {size_bytes}");
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, told))
    }

    /// Returns the extent at `offset`. Without support from the file system all is data.
    pub(super) fn extent(&self, offset: u64) -> io::Result<Extent> {
        self.check_known()?;
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

    /// Returns true if `range` is known to be a hole.
    pub(super) fn is_hole(&self, range: &Range<u64>) -> io::Result<bool> {
        Ok(!self.is_block_device && self.end_of_hole(range.start)? >= range.end)
    }

    /// Returns the end of the hole at `offset` of a regular file; `offset` if there is none.
    fn end_of_hole(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, Position::Data(offset)) {
            Ok(data) => Ok(data.clamp(offset, self.size_bytes)),
            Err(Errno::NXIO) => {
                // The file system also reports the end of data for an offset past the end of a
                // file.
                self.check()?;
                Ok(self.size_bytes)
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
            Err(error) => Err(error.into()),
        }
    }
}

/// Alignment of direct I/O on a file if the kernel does not report it: before Linux 6.1, and on
/// some file systems. No file system has smaller blocks and requires a larger alignment than this.
const FILE_UNIT: u64 = 4096;

/// Returns the parameters of direct I/O on `file`, with `usual` bytes of alignment if the kernel
/// does not report it. Returns `None` if direct I/O is impossible.
fn direct(file: &File, usual: u64) -> Option<Direct> {
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let told = told
        .filter(|told| StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::DIOALIGN));
    let (unit, memory) = match told {
        Some(told) => (told.stx_dio_offset_align.into(), told.stx_dio_mem_align as usize),
        None => (usual, usual as usize),
    };
    // Zeroes mean that this file does not support direct I/O, though others may.
    let is_possible = unit.is_power_of_two() && memory.is_power_of_two() && memory <= ALIGNMENT;
    is_possible.then(|| Direct::new(unit, memory))
}

/// Makes the page cache of a block device use blocks of at least `logical_block_size` bytes.
///
/// The kernel does so when a device is opened first, but not if another program, udev for one, has
/// it open since before it was set up. Then each read into the cache is an I/O error, for blocks
/// larger than a page. This needs privileges; without them the error shows at the first access.
fn set_cache_blocks(device: &File, logical_block_size: u64) {
    const PAGE: u64 = 4096;
    if let Ok(bytes) = c_int::try_from(logical_block_size)
        && logical_block_size > PAGE
    {
        let _ = set_block_size(device, bytes);
    }
}

#[expect(unsafe_code, reason = "no crate has a safe call for it")]
fn set_block_size(device: &File, bytes: c_int) -> rustix::io::Result<()> {
    const BLKBSZSET: Opcode = opcode::write::<usize>(0x12, 113);
    // SAFETY: BLKBSZSET reads one int, whatever the type in its number says.
    let request = unsafe { Setter::<BLKBSZSET, c_int>::new(bytes) };
    // SAFETY: the device is open, and was found to be a block device. No memory is written.
    unsafe { ioctl(device, request) }
}
