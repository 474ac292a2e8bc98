//! The location of the control socket, and the errors of creating it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use thiserror::Error;

use crate::unix_socket::{self, SocketError, SocketFile};

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

impl BindError {
    fn new(path: PathBuf, error: SocketError) -> Self {
        match error {
            SocketError::InUse => Self::InUse(path),
            SocketError::NoSocket => Self::NoSocket(path),
            SocketError::Io(source) => Self::Io { path, source },
        }
    }
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

/// Listens at `path`.
pub(super) fn listen(path: PathBuf) -> Result<(SocketFile, OwnedFd), BindError> {
    SocketFile::listen(path.clone(), BACKLOG).map_err(|error| BindError::new(path, error))
}

/// Checks whether the control socket could be created at `path`, as far as that is possible without
/// changing anything.
///
/// # Errors
/// [`BindError`].
pub fn check_place(path: &Path) -> Result<(), BindError> {
    unix_socket::check(path).map_err(|error| BindError::new(path.to_owned(), error))
}
