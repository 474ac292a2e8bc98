//! A clone as one file, by FUSE: for `losetup`, and for any program that wants a file.
//!
//! All I/O is direct: nothing of the clone is in the page cache of the file, so what comes by other
//! ways (NBD) is seen at once. Mappings that are shared (`MAP_SHARED`) are refused by the kernel
//! for that reason.

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

/// Who may use the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// The user who exports it.
    #[default]
    Owner,
    /// He and root. For another than root this takes `user_allow_other` in `/etc/fuse.conf`.
    OwnerAndRoot,
    /// Everybody, to read and write. For another than root this takes it too.
    Everybody,
}

/// What can be set on an export.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who may use the file.
    pub who: Who,
    /// Threads that serve it, one at least. Each serves one request at a time; only what is on the
    /// destination already takes it up for longer.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { who: Who::Owner, threads: 8 }
    }
}

/// Why a clone is not exported, or still is.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FuseError {
    /// The path cannot be looked at, or not be made.
    #[error("{}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something is there that is neither a regular file nor a directory.
    #[error("{}: neither a regular file nor a directory", .0.display())]
    Kind(PathBuf),
    /// A file is there that holds something, which would be hidden.
    #[error("{}: the file is not empty; a clone is mounted on an empty file", .0.display())]
    NotEmpty(PathBuf),
    /// A FUSE file system is mounted there that nobody serves any more, and it cannot be removed.
    #[error("{}: a dead FUSE file system is mounted there: {reason}", .path.display())]
    Dead {
        /// The path.
        path: PathBuf,
        /// What the system, or fusermount3, says.
        reason: String,
    },
    /// The clone is called what no file in a directory can be called.
    #[error("{0:?} cannot be the name of a file")]
    Name(String),
    /// It cannot be mounted.
    #[error("cannot mount the clone on {}: {reason}", .path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the system, or fusermount3, says.
        reason: String,
    },
    /// The kernel and this do not come to terms, or there are no more threads.
    #[error("cannot serve the FUSE file system")]
    Session(#[source] io::Error),
    /// A program, or a loop device, has it open.
    #[error("{} is in use: a program or a loop device has it open", .0.display())]
    Busy(PathBuf),
    /// It cannot be unmounted.
    #[error("cannot unmount {}: {reason}", .path.display())]
    Unmount {
        /// Where it is mounted.
        path: PathBuf,
        /// What the system, or fusermount3, says.
        reason: String,
    },
}

/// A clone that is there as a file.
///
/// When it is dropped it is unmounted. If it is in use then, its path is free all the same, and
/// those who have it open keep it until they close it.
///
/// If the process dies `fusermount3` unmounts it, unless another than root has exported it for
/// himself; without that program root alone can mount, and nobody unmounts. What stays is removed
/// by the next export to the same path.
pub struct Export {
    mount: Option<Mount>,
    /// `None` when it has been unmounted.
    session: Option<BackgroundSession>,
    /// Where it is mounted.
    point: PathBuf,
    file: PathBuf,
    /// The device and the inode of the file that was made to be mounted on.
    made: Option<(u64, u64)>,
}

impl Export {
    /// Finds out whether a clone called `name` could be [mounted](Self::mount), as far as that can
    /// be told before there is one. Nothing has changed then.
    ///
    /// # Errors
    /// [`FuseError`].
    pub fn check(path: &Path, name: &str) -> Result<(), FuseError> {
        let place = Place::prepare(path, name)?;
        if place.made.is_some() {
            // What is left behind would be as empty as it was made.
            let _ = fs::remove_file(&place.point);
        }
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        device.map(drop).map_err(|error| FuseError::Mount {
            path: path.to_owned(),
            reason: format!("/dev/fuse: {error}"),
        })
    }

    /// Makes the clone a file.
    ///
    /// Where `path` is a directory, it is mounted there, and the file in it is called as the clone
    /// is. Otherwise the file is `path` itself: an empty regular file on which it is mounted, which
    /// is made if nothing is there, and then removed in the end.
    ///
    /// # Errors
    /// [`FuseError`]. Nothing is mounted then, and nothing was made.
    pub fn mount(path: &Path, volume: Arc<Volume>, options: Options) -> Result<Self, FuseError> {
        let Place { point, shape, made } = Place::prepare(path, volume.name())?;
        let file = match &shape {
            Shape::File => point.clone(),
            Shape::Directory(name) => point.join(name),
        };
        let mut export = Self { mount: None, session: None, point, file, made };
        let mounted = Mount::new(&export.point, shape.is_file(), options.who != Who::Owner);
        let (mount, device) =
            mounted.map_err(|reason| FuseError::Mount { path: export.point.clone(), reason })?;
        export.mount = Some(mount);

        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(1));
        let acl = match options.who {
            Who::Owner => SessionACL::Owner,
            Who::OwnerAndRoot => SessionACL::RootAndOwner,
            Who::Everybody => SessionACL::All,
        };
        let files = FileSystem::new(volume, shape, options.who == Who::Everybody);
        let session = Session::from_fd(files, device, acl, config).and_then(Session::spawn);
        export.session = Some(session.map_err(FuseError::Session)?);
        Ok(export)
    }

    /// The file that is the clone.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Ends it, if nobody has the file open. What was written is as durable then as it was before:
    /// that of the last flush is.
    ///
    /// # Errors
    /// [`FuseError::Busy`], and [`FuseError::Unmount`]; it goes on then.
    pub fn unmount(&mut self) -> Result<(), FuseError> {
        let Some(mount) = &self.mount else { return Ok(()) };
        // Whoever may can unmount it too, and then there may be something else.
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

    /// Whether it is still mounted: whoever may can unmount it too.
    pub fn is_mounted(&self) -> bool {
        self.session.as_ref().is_none_or(|session| !session.guard.is_finished())
    }

    /// After the end of the mount. Threads that serve it end with the last file that is open.
    fn clean_up(&mut self) {
        self.mount = None;
        self.session = None;
        let Some(made) = self.made.take() else { return };
        let found = fs::symlink_metadata(&self.point);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == made && found.len() == 0) {
            // It is as empty as it was made: if it stays it does no harm.
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

/// Where a clone is mounted, and as what.
struct Place {
    /// An absolute path.
    point: PathBuf,
    shape: Shape,
    /// The device and the inode of the file there, if it was made for that.
    made: Option<(u64, u64)>,
}

impl Place {
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

/// Removes a FUSE file system whose process has died.
fn detach_dead(path: &Path) -> Result<(), FuseError> {
    let dead = |reason| FuseError::Dead { path: path.into(), reason };
    // The path itself cannot be looked at, so it is made absolute by what it is in.
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
