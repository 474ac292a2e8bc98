//! Opens block devices, and regular files that take their place.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{OFlags, major, minor};
use rustix::io::Errno;
use thiserror::Error;

use super::holders::holders;

/// The access for which a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reading, with writers excluded: a block device is claimed exclusively, a file gets a shared
    /// lock.
    Read,
    /// Reading and writing, with all others excluded except [live](Purpose::Live) readers: a block
    /// device is claimed exclusively, a file is locked.
    Write,
    /// Reading while others may write. Excludes nobody.
    Live,
}

/// Use of the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Reads and writes go through the page cache.
    Use,
    /// Direct I/O. A file system without direct I/O is refused.
    Avoid,
    /// Direct I/O. On a file system without it, the page cache, which is then always up to date.
    AvoidIfPossible,
}

/// The kinds of files that can be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    BlockDevice,
}

impl Kind {
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
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

/// Opens the block device or the regular file at `path`, which must exist.
///
/// # Errors
/// Any [`OpenError`]; not [`InUse`](OpenError::InUse) if it is opened [live](Purpose::Live).
pub fn open(path: &Path, purpose: Purpose, caching: Caching) -> Result<File, OpenError> {
    // The kind is checked before opening: opening a FIFO blocks, opening a tape rewinds it, and
    // O_EXCL is undefined for anything but a block device.
    let metadata = fs::metadata(path).map_err(|source| OpenError::new(path, source))?;
    let kind = Kind::of(&metadata).ok_or_else(|| OpenError::unfit(path, &metadata))?;

    let claim = match (purpose, kind) {
        (Purpose::Read | Purpose::Write, Kind::BlockDevice) => OFlags::EXCL,
        _ => OFlags::empty(),
    };
    let open = |direct: OFlags| {
        let flags = (claim | direct).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(purpose == Purpose::Write).custom_flags(flags).open(path)
    };
    let lacks_direct_io = |error: &io::Error| Errno::from_io_error(error) == Some(Errno::INVAL);
    let opened = match caching {
        Caching::Use => open(OFlags::empty()),
        Caching::Avoid | Caching::AvoidIfPossible => match open(OFlags::DIRECT) {
            Err(error) if lacks_direct_io(&error) && caching == Caching::AvoidIfPossible => {
                open(OFlags::empty())
            }
            Err(error) if lacks_direct_io(&error) => {
                return Err(OpenError::NoDirectIo { path: path.to_owned() });
            }
            opened => opened,
        },
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

/// Protects a file as O_EXCL protects a block device. It takes an open file description lock on the
/// whole file, which other processes such as QEMU see, and which also conflicts with a second open
/// in this process. It also takes the whole-file lock that `flock(1)` takes.
fn lock(file: &File, path: &Path, purpose: Purpose) -> Result<(), OpenError> {
    let locked = match purpose {
        Purpose::Read => file.try_lock_shared(),
        Purpose::Write => file.try_lock(),
        Purpose::Live => return Ok(()),
    };
    let locked = match locked {
        Ok(()) => lock_open_file(file, purpose),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    };
    match locked {
        Ok(()) => Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            // Where locks do not exist, nobody else can hold one. So this is no error.
            Some(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL) => Ok(()),
            Some(Errno::AGAIN | Errno::ACCESS) => {
                Err(OpenError::InUse { path: path.to_owned(), holders: Vec::new() })
            }
            _ if error.kind() == io::ErrorKind::WouldBlock => {
                Err(OpenError::InUse { path: path.to_owned(), holders: Vec::new() })
            }
            _ => Err(OpenError::new(path, error)),
        },
    }
}

/// Calls `F_OFD_SETLK` on the whole file: fcntl(2), "Open file description locks (non-POSIX)".
fn lock_open_file(file: &File, purpose: Purpose) -> io::Result<()> {
    let kind = if purpose == Purpose::Write { libc::F_WRLCK } else { libc::F_RDLCK };
    let all = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&all))?;
    Ok(())
}

/// Releases the locks that [`open`] has put on a regular file, although the file stays open. The
/// next process that opens it can take them. The claim on a block device lasts until it is closed.
pub fn unlock(file: &File) {
    // Without support for locks there was none.
    let _ = file.unlock();
    let all = libc::flock {
        l_type: libc::F_UNLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&all));
}

/// Reason why a device could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path does not exist.
    #[error("{path} does not exist")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The path is a directory.
    #[error("{path} is a directory; give a block device or a file")]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// The path is a FIFO, a socket or a character device.
    #[error("{path} is neither a block device nor a regular file")]
    NotAFileOrBlockDevice {
        /// The path.
        path: PathBuf,
    },
    /// The device is in use.
    #[error("{path} is in use by {}; stop that first", enumerate(.holders))]
    InUse {
        /// The path.
        path: PathBuf,
        /// Users of the device, in words: `` dm device `clone0` ``. Empty if they are not known.
        holders: Vec<String>,
    },
    /// The user may not open it, or not for writing.
    #[error("no permission to open {path}; try as root, and see whether it is read-only")]
    PermissionDenied {
        /// The path.
        path: PathBuf,
    },
    /// Direct I/O was requested, but the file system does not support it.
    #[error("no direct I/O on {path}: its file system cannot do it; use the page cache instead")]
    NoDirectIo {
        /// The path.
        path: PathBuf,
    },
    /// Any other error.
    #[error("cannot open {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl OpenError {
    /// Converts an I/O error of an operation on `path`.
    pub fn new(path: &Path, source: io::Error) -> Self {
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
        let number = format!("{}:{}", major(device), minor(device));
        Self::InUse { path: path.to_owned(), holders: holders(Path::new("/"), &number) }
    }
}

fn enumerate(holders: &[String]) -> String {
    match holders {
        [] => "another program".to_owned(),
        holders => holders.join(", "),
    }
}
