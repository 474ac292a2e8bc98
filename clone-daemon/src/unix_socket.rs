//! Listening unix sockets in the file system, for the control socket and for NBD.
//!
//! *Invariant:* a socket file is removed only by the process that holds the lock file beside it,
//! and only if it is its own or no process listens on it. The lock file is the path of the socket
//! with `.lock` appended; it exists while the socket does.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clone_tools::common::paths::folder_of;
use rustix::fs::{Access, FlockOperation, Mode, access, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use thiserror::Error;

/// The reason why no socket can be created at a path. Callers add the path.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    /// Another process has the socket.
    #[error("another server listens there")]
    InUse,
    /// A file that is not a socket is at the path.
    #[error("it exists and is not a socket")]
    NoSocket,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for SocketError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The file of a socket that this process created, with its lock. Dropping it removes both.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: Inode,
    /// Dropped last: no other process can replace the socket before it is removed.
    _lock: LockFile,
}

impl SocketFile {
    /// Listens at `path`, with at most `backlog` connections that wait to be accepted. Only the
    /// owner can ever connect (mode 0600). A stale socket is replaced.
    ///
    /// # Errors
    /// [`SocketError::InUse`] if another process holds the lock or listens on the socket;
    /// [`SocketError::NoSocket`] if another file is at the path; [`SocketError::Io`].
    pub(crate) fn listen(path: PathBuf, backlog: i32) -> Result<(Self, OwnedFd), SocketError> {
        let address = SocketAddrUnix::new(&path)?;
        let lock = LockFile::take(&path)?.ok_or(SocketError::InUse)?;
        if is_stale(&path)? {
            fs::remove_file(&path)?;
        }
        let socket = stream_socket(SocketFlags::CLOEXEC)?;
        // The socket file gets the mode of the socket (unix(7)), so it is never more accessible.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address)?;
        let file = Self { inode: Inode::at(&path)?, path, _lock: lock };
        listen(&socket, backlog)?;
        Ok((file, socket))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.inode.remove(&self.path);
    }
}

/// Checks whether a socket could be created at `path`, as far as that is possible without changing
/// anything.
///
/// # Errors
/// Those of [`SocketFile::listen`].
pub(crate) fn check(path: &Path) -> Result<(), SocketError> {
    SocketAddrUnix::new(path)?;
    access(folder_of(path), Access::WRITE_OK | Access::EXEC_OK)?;
    is_stale(path).map(drop)
}

/// Returns whether there is a socket at `path` on which no process listens; false if there is
/// nothing. A process that listens need not use the lock, for example systemd.
fn is_stale(path: &Path) -> Result<bool, SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NoSocket),
        Ok(_) => {}
    }
    let socket = stream_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => Ok(true),
        // A full backlog belongs to a live process.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse),
        Err(error) => Err(error.into()),
    }
}

fn stream_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// A locked file. Dropping it removes the file and releases the lock.
///
/// The file is removed while it is locked, and a lock counts only if its file is still in place
/// then. So two processes never hold the lock of one path.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    /// Takes the lock of the socket at `path`. Returns `None` if another process holds it.
    fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            let file = options.custom_flags(libc::O_NOFOLLOW).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let locked = Inode::of(&file.metadata()?);
            match Inode::at(&path) {
                Ok(found) if found == locked => return Ok(Some(Self { path, file })),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // The previous holder has removed the file after it was opened here.
                _ => {}
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if let Ok(metadata) = self.file.metadata() {
            Inode::of(&metadata).remove(&self.path);
        }
    }
}

/// Device and inode number of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode(u64, u64);

impl Inode {
    fn of(metadata: &fs::Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }

    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::symlink_metadata(path)?))
    }

    /// Removes `path` if it still is this file: another process may have replaced it.
    fn remove(self, path: &Path) {
        if Self::at(path).is_ok_and(|found| found == self) {
            // If this fails, the next process that listens there takes the file over.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::{SocketError, SocketFile};

    #[test]
    fn only_the_owner_can_connect_and_nothing_is_left_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (file, socket) = SocketFile::listen(path.clone(), 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(SocketFile::listen(path.clone(), 1), Err(SocketError::InUse)));
        drop((file, socket));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(SocketFile::listen(path, 1).unwrap());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_what_is_not_ours_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let strange = UnixListener::bind(&path).unwrap();
        assert!(matches!(SocketFile::listen(path.clone(), 1), Err(SocketError::InUse)));
        drop(strange);
        assert!(path.exists());
        drop(SocketFile::listen(path.clone(), 1).unwrap());
        fs::write(&path, "text").unwrap();
        assert!(matches!(SocketFile::listen(path.clone(), 1), Err(SocketError::NoSocket)));
        assert_eq!(fs::read(&path).unwrap(), b"text");
    }

    #[test]
    fn a_socket_whose_owner_is_ending_is_not_replaced_before_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (file, socket) = SocketFile::listen(path.clone(), 1).unwrap();
        // No process listens any more, but the lock is held.
        drop(socket);
        assert!(matches!(SocketFile::listen(path.clone(), 1), Err(SocketError::InUse)));
        drop(file);
        let _next = SocketFile::listen(path, 1).unwrap();
    }

    #[test]
    fn a_lock_file_of_a_process_that_died_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        fs::write(folder.path().join("socket.lock"), "").unwrap();
        let (file, _socket) = SocketFile::listen(path, 1).unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_with_a_full_backlog_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (file, _socket) = SocketFile::listen(path.clone(), 0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        assert!(matches!(super::check(&path), Err(SocketError::InUse)));
        drop(file);
    }
}
