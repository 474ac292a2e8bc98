//! A clone as one file, by FUSE: for `losetup`, and for any program that uses a file.
//!
//! [`Export`] mounts the file system (`mount`) and starts the threads that serve it (`file`).
//!
//! *Invariant:* all I/O is direct, and the page cache of the file holds nothing of the clone, so
//! writes by other exports (NBD) are visible at once. For this reason the kernel refuses shared
//! mappings (`MAP_SHARED`).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use thiserror::Error;

use crate::export::fuse::file::{FileSystem, Shape};
use crate::export::fuse::mount::{Mount, UnmountError};
use crate::export::volume::Volume;

pub use self::exporter::{FuseExporter, MountPoint};

mod exporter;
mod file;
mod mount;

/// The users who may access the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileUsers {
    /// The user who exports it.
    #[default]
    Owner,
    /// That user and root. A user other than root needs `user_allow_other` in `/etc/fuse.conf`.
    OwnerAndRoot,
    /// All users, for reading and writing. A user other than root needs `user_allow_other` too.
    Everybody,
}

/// Settings of an export.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The users who may access the file.
    pub users: FileUsers,
    /// Number of threads, at least 1. Each handles one request at a time. Only requests on the fast
    /// path occupy a thread for longer.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { users: FileUsers::Owner, threads: 8 }
    }
}

/// An error of an [`Export`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FuseError {
    /// The path cannot be examined, or the file cannot be created.
    #[error("{}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The path is neither a regular file nor a directory.
    #[error("{}: neither a regular file nor a directory", .0.display())]
    Kind(PathBuf),
    /// The file at the path is not empty; the mount would hide its contents.
    #[error("{}: the file is not empty; a clone is mounted on an empty file", .0.display())]
    NotEmpty(PathBuf),
    /// A dead FUSE file system is mounted on the path and cannot be detached.
    #[error("{}: a dead FUSE file system is mounted there: {reason}", .path.display())]
    Dead {
        /// The path.
        path: PathBuf,
        /// The message of the system or of `fusermount3`.
        reason: String,
    },
    /// The name of the clone cannot be the name of a file.
    #[error("{0:?} cannot be the name of a file")]
    Name(String),
    /// The file system cannot be mounted.
    #[error("cannot mount the clone on {}: {reason}", .path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The message of the system or of `fusermount3`.
        reason: String,
    },
    /// The FUSE session cannot be set up with the kernel, or the system has no thread for it.
    #[error("cannot serve the FUSE file system")]
    Session(#[source] io::Error),
    /// A program or a loop device has the file open.
    #[error("{} is in use: a program or a loop device has it open", .0.display())]
    Busy(PathBuf),
    /// The file system cannot be unmounted.
    #[error("cannot unmount {}: {reason}", .path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The message of the system or of `fusermount3`.
        reason: String,
    },
}

/// A clone exported as a file.
///
/// Dropping it unmounts it. If the file is open then, the path becomes free nevertheless, and
/// programs keep the open file until they close it.
///
/// If the process dies, `fusermount3` unmounts the file system, except if a user other than root
/// exported it for [`FileUsers::Owner`]. Without `fusermount3` only root can mount, and nothing
/// unmounts automatically. The next export to the same path removes a dead mount.
pub struct Export {
    mount: Option<Mount>,
    /// `None` after the unmount.
    session: Option<BackgroundSession>,
    /// The mount point.
    point: PathBuf,
    file: PathBuf,
    /// Device and inode number of the file that was created as the mount point.
    made: Option<(u64, u64)>,
}

impl Export {
    /// Checks whether a clone called `name` can be [mounted](Self::mount), as far as that is known
    /// before the mount. Leaves nothing behind.
    ///
    /// # Errors
    /// - [`FuseError::Path`], [`FuseError::Kind`], [`FuseError::NotEmpty`], [`FuseError::Name`]:
    ///   the path or the name is unsuitable.
    /// - [`FuseError::Dead`]: a dead file system on the path cannot be detached.
    /// - [`FuseError::Mount`]: `/dev/fuse` cannot be opened.
    pub fn check(path: &Path, name: &str) -> Result<(), FuseError> {
        let prepared = PreparedPoint::prepare(path, name)?;
        if prepared.made.is_some() {
            // If the file stays, it is as empty as it was created.
            let _ = fs::remove_file(&prepared.point);
        }
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        device.map(drop).map_err(|error| FuseError::Mount {
            path: path.to_owned(),
            reason: format!("/dev/fuse: {error}"),
        })
    }

    /// Exports a clone as a file.
    ///
    /// If `path` is a directory, the file system is mounted on it, and the file in it has the name
    /// of the clone. Otherwise the file is `path` itself: an empty regular file that serves as the
    /// mount point. If it does not exist, it is created, and removed at the end.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`FuseError::Mount`] and [`FuseError::Session`]. Then
    /// nothing is mounted, and no file has been created.
    pub fn mount(path: &Path, volume: Arc<Volume>, options: Options) -> Result<Self, FuseError> {
        let PreparedPoint { point, shape, made } = PreparedPoint::prepare(path, volume.name())?;
        let file = match &shape {
            Shape::File => point.clone(),
            Shape::Directory(name) => point.join(name),
        };
        let mut export = Self { mount: None, session: None, point, file, made };
        let mounted = Mount::new(&export.point, shape.is_file(), options.users != FileUsers::Owner);
        let (mount, device) =
            mounted.map_err(|reason| FuseError::Mount { path: export.point.clone(), reason })?;
        export.mount = Some(mount);

        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(1));
        let acl = match options.users {
            FileUsers::Owner => SessionACL::Owner,
            FileUsers::OwnerAndRoot => SessionACL::RootAndOwner,
            FileUsers::Everybody => SessionACL::All,
        };
        let files = FileSystem::new(volume, shape, options.users == FileUsers::Everybody);
        let session = Session::from_fd(files, device, acl, config).and_then(Session::spawn);
        export.session = Some(session.map_err(FuseError::Session)?);
        Ok(export)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Unmounts the file system if no program has the file open. This flushes nothing: the last
    /// flush decides what is durable.
    ///
    /// # Errors
    /// [`FuseError::Busy`] if the file is open, [`FuseError::Unmount`] for other reasons. The
    /// export continues.
    pub fn unmount(&mut self) -> Result<(), FuseError> {
        let Some(mount) = &self.mount else { return Ok(()) };
        // If a user has unmounted it already, another file system may be at the mount point.
        if self.is_mounted() {
            mount.unmount().map_err(|error| match error {
                UnmountError::Busy => FuseError::Busy(self.point.clone()),
                UnmountError::Other(reason) => {
                    FuseError::Unmount { path: self.point.clone(), reason }
                }
            })?;
        }
        self.clean_up();
        Ok(())
    }

    /// Returns whether the file system is still mounted: a user may have unmounted it.
    pub fn is_mounted(&self) -> bool {
        self.session.as_ref().is_none_or(|session| !session.guard.is_finished())
    }

    /// Cleans up after the unmount. The threads end when the last open file is closed.
    fn clean_up(&mut self) {
        self.mount = None;
        self.session = None;
        let Some(made) = self.made.take() else { return };
        let found = fs::symlink_metadata(&self.point);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == made && found.len() == 0) {
            // The file is as empty as it was created, so it does no harm if it stays.
            let _ = fs::remove_file(&self.point);
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if self.unmount().is_err()
            && let Some(mount) = &self.mount
        {
            mount.detach();
        }
        self.clean_up();
    }
}

/// The mount point of a clone, and the shape of its file system.
struct PreparedPoint {
    /// The absolute path of the mount point.
    point: PathBuf,
    shape: Shape,
    /// Device and inode number of the file, if it was created as the mount point.
    made: Option<(u64, u64)>,
}

impl PreparedPoint {
    fn prepare(path: &Path, name: &str) -> Result<Self, FuseError> {
        let wrong = |source| FuseError::Path { path: path.into(), source };
        let found = fs::metadata(path);
        let is_dead = |error: &io::Error| error.raw_os_error() == Some(libc::ENOTCONN);
        let found = match found {
            Err(error) if is_dead(&error) => {
                detach_dead(path)?;
                fs::metadata(path)
            }
            found => found,
        };
        let mut made = None;
        let shape = match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut options = OpenOptions::new();
                let file = options.write(true).create_new(true).mode(0o600).open(path);
                let found = file.and_then(|file| file.metadata()).map_err(wrong)?;
                made = Some((found.dev(), found.ino()));
                Shape::File
            }
            Err(error) => return Err(wrong(error)),
            Ok(found) if found.is_dir() => match name {
                "" | "." | ".." => return Err(FuseError::Name(name.into())),
                _ if name.contains(['/', '\0']) || name.len() > file::NAME_MAX => {
                    return Err(FuseError::Name(name.into()));
                }
                _ => Shape::Directory(name.into()),
            },
            Ok(found) if !found.is_file() => return Err(FuseError::Kind(path.into())),
            Ok(found) if found.len() > 0 => return Err(FuseError::NotEmpty(path.into())),
            Ok(_) => Shape::File,
        };
        Ok(Self { point: fs::canonicalize(path).map_err(wrong)?, shape, made })
    }
}

/// Detaches a FUSE file system whose process has died.
fn detach_dead(path: &Path) -> Result<(), FuseError> {
    let dead = |reason| FuseError::Dead { path: path.into(), reason };
    // The path itself cannot be resolved, but its parent can.
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).map_err(|error| dead(error.to_string()))?;
    let name = path.file_name().unwrap_or_default();
    mount::detach(&parent.join(name)).map_err(|error| match error {
        UnmountError::Busy => dead("it is in use".into()),
        UnmountError::Other(reason) => dead(reason),
    })
}
