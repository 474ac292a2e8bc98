//! The location of the control socket: default paths, binding, and the removal of stale sockets.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clone_tools::common::output::folder_of;
use rustix::fs::{Access, FlockOperation, Mode, access, fchmod, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::geteuid;
use thiserror::Error;

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// The reason why the control socket cannot be created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another daemon has the socket.
    #[error("another daemon uses the control socket {}", .0.display())]
    InUse(PathBuf),
    /// A file that is not a socket is in its place.
    #[error("{} exists and is not a socket: it is left alone", .0.display())]
    NoSocket(PathBuf),
    /// An I/O error.
    #[error("cannot make the control socket {}", path.display())]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// Returns the default path of the control socket: `/run/cloned.sock` for root, otherwise
/// `cloned.sock` in `$XDG_RUNTIME_DIR`, if that is set.
pub fn default_path() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some("/run/cloned.sock".into());
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty())?;
    Some(Path::new(&folder).join("cloned.sock"))
}

/// Returns the control socket of the systemd unit, `/run/cloned/cloned.sock`, if it exists and
/// there is none at [`default_path`]. The user of the unit cannot create one there.
pub fn service_path() -> Option<PathBuf> {
    let service = Path::new("/run/cloned/cloned.sock");
    let is_other = default_path().is_none_or(|path| !path.exists());
    (is_other && service.exists()).then(|| service.to_owned())
}

/// A bound socket. Dropping it removes the socket.
pub(super) struct Bound {
    path: PathBuf,
    /// The device and inode numbers of the socket.
    identity: (u64, u64),
    /// The lock that permits replacing the socket. The lock file stays: if it were removed, two
    /// daemons could hold a lock of that name at the same time.
    _lock: File,
}

impl Bound {
    /// Creates a socket at `path` to which only its owner can ever connect.
    pub(super) fn bind(path: PathBuf) -> Result<(Self, OwnedFd), BindError> {
        let failed = |source: io::Error| BindError::Io { path: path.clone(), source };
        let lock = lock(&path).map_err(failed)?;
        let lock = lock.ok_or_else(|| BindError::InUse(path.clone()))?;
        make_room(&path)?;
        let socket = listen_at(&path).map_err(failed)?;
        let identity = identity(&path).map_err(failed)?;
        Ok((Self { path, identity, _lock: lock }, socket))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Checks whether a socket could be created at `path`, as far as that is possible without changing
/// anything.
///
/// # Errors
/// [`BindError`].
pub fn check_place(path: &Path) -> Result<(), BindError> {
    let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
    SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    access(folder_of(path), Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| failed(error.into()))?;
    is_left_behind(path).map(drop)
}

impl Drop for Bound {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // If this fails, the next daemon removes the stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Takes the lock. Returns `None` if another process holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes a stale socket. A socket that accepts connections belongs to a program that does not use
/// the lock, for example systemd.
fn make_room(path: &Path) -> Result<(), BindError> {
    if is_left_behind(path)? {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        fs::remove_file(path).map_err(failed)?;
    }
    Ok(())
}

/// Returns whether there is a stale socket at `path`.
fn is_left_behind(path: &Path) -> Result<bool, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(BindError::InUse(path.to_owned())),
    }
}

fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The socket file gets the mode of the socket, so that it is never more accessible.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::{BindError, Bound};

    #[test]
    fn only_the_owner_can_connect_and_the_socket_goes_with_whoever_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (bound, socket) = Bound::bind(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(Bound::bind(path.clone()), Err(BindError::InUse(_))));
        drop((bound, socket));
        assert!(!path.exists());
        drop(Bound::bind(path).unwrap());
    }

    #[test]
    fn what_was_left_behind_is_replaced_and_what_is_not_ours_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let strange = UnixListener::bind(&path).unwrap();
        assert!(matches!(Bound::bind(path.clone()), Err(BindError::InUse(_))));
        drop(strange);
        assert!(path.exists());
        drop(Bound::bind(path.clone()).unwrap());
        fs::write(&path, "text").unwrap();
        assert!(matches!(Bound::bind(path.clone()), Err(BindError::NoSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"text");
    }
}
