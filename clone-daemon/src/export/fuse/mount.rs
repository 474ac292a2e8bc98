//! Mounting and unmounting of FUSE file systems, for [`Export`](super::Export).

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{getegid, geteuid};

/// The libfuse program that mounts for users other than root; usually setuid root.
const FUSERMOUNT: &str = "fusermount3";

/// A mounted file system.
pub(super) struct Mount {
    point: PathBuf,
    /// Unmounts the file system if this process does not; `None` if there is no `fusermount3`.
    _watcher: Option<Watcher>,
}

/// The reason why a file system is still mounted.
pub(super) enum UnmountError {
    /// A file of it is open.
    Busy,
    /// Another reason, as text for people.
    Other(String),
}

/// A `fusermount3` process that unmounts the file system when the other end of its socket is
/// closed: by this process, or because it died. At least up to libfuse 3.14 it fails to do so if
/// root has no access to the file system, because it first checks, as root, whether that is still
/// served.
struct Watcher {
    child: Child,
    /// `None` after it was closed.
    socket: Option<UnixStream>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.socket = None;
        // The process ends now, if it has not ended already.
        let _ = self.child.wait();
    }
}

impl Mount {
    /// Mounts a file system on `point`, an absolute path. Returns the descriptor from which the
    /// requests of the kernel are read.
    ///
    /// # Errors
    /// The reason as text for people.
    pub(super) fn new(
        point: &Path,
        is_file: bool,
        allow_other: bool,
    ) -> Result<(Self, OwnedFd), String> {
        match by_fusermount(point, allow_other) {
            Ok((watcher, device)) => {
                Ok((Self { point: point.into(), _watcher: Some(watcher) }, device))
            }
            Err(MountError::NoProgram) if geteuid().is_root() => {
                let device = by_root(point, is_file, allow_other);
                let device = device.map_err(|error| error.to_string())?;
                Ok((Self { point: point.into(), _watcher: None }, device))
            }
            Err(MountError::NoProgram) => {
                Err(format!("{FUSERMOUNT} does not exist, which is required without root"))
            }
            Err(MountError::Io(error)) => Err(format!("{FUSERMOUNT}: {error}")),
            Err(MountError::Refused(reason)) => Err(reason),
        }
    }

    /// Unmounts the file system.
    ///
    /// # Errors
    /// [`UnmountError::Busy`] if a file of it is open, [`UnmountError::Other`] for other reasons.
    pub(super) fn unmount(&self) -> Result<(), UnmountError> {
        unmount(&self.point, UnmountFlags::empty(), "-u")
    }

    /// Detaches the file system; see [`detach`].
    pub(super) fn detach(&self) {
        // If it fails, nothing is left to try.
        let _ = detach(&self.point);
    }
}

/// Detaches a file system from its path. It is unmounted when none of its files is open.
pub(super) fn detach(point: &Path) -> Result<(), UnmountError> {
    unmount(point, UnmountFlags::DETACH, "-uz")
}

fn unmount(point: &Path, flags: UnmountFlags, option: &str) -> Result<(), UnmountError> {
    match rustix::mount::unmount(point, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::BUSY) => return Err(UnmountError::Busy),
        // Only root may unmount directly.
        Err(Errno::PERM) => {}
        Err(error) => return Err(UnmountError::Other(error.to_string())),
    }
    let mut command = Command::new(FUSERMOUNT);
    command.args([option, "--"]).arg(point).env("LC_ALL", "C");
    let output = command.output().map_err(|error| UnmountError::Other(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(UnmountError::Busy),
        false => Err(UnmountError::Other(said.trim().into())),
    }
}

enum MountError {
    NoProgram,
    Io(io::Error),
    /// The message of `fusermount3`.
    Refused(String),
}

impl From<io::Error> for MountError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Mounts with `fusermount3`, which sends the device over a socket whose number is in
/// `_FUSE_COMMFD`. With `auto_unmount` it stays, and unmounts when the socket is closed.
fn by_fusermount(point: &Path, allow_other: bool) -> Result<(Watcher, OwnedFd), MountError> {
    let mut options =
        "auto_unmount,default_permissions,nosuid,nodev,fsname=cloned,subtype=cloned".to_owned();
    if allow_other {
        options.push_str(",allow_other");
    }
    let (socket, theirs) = UnixStream::pair()?;
    let mut command = Command::new(FUSERMOUNT);
    command.args(["-o", &options, "--"]).arg(point).env("_FUSE_COMMFD", "0");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoProgram,
        _ => MountError::Io(error),
    })?;
    // The child has its end of the socket, and must be the only owner of it.
    drop(command);
    let stderr = child.stderr.take();
    let received = receive(&socket);
    let watcher = Watcher { child, socket: Some(socket) };
    if let Some(device) = received? {
        return Ok((watcher, device));
    }
    let mut said = String::new();
    if let Some(mut stderr) = stderr {
        stderr.read_to_string(&mut said)?;
    }
    Err(MountError::Refused(said.trim().into()))
}

/// Receives a descriptor; `None` if the message has none.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    let mut data = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::net::recvmsg(socket, &mut data, &mut control, flags))?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Mounts with `mount(2)`, for root without `fusermount3`. The options are from the kernel's
/// `Documentation/filesystems/fuse.rst`.
fn by_root(point: &Path, is_file: bool, allow_other: bool) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let rootmode = if is_file { libc::S_IFREG } else { libc::S_IFDIR };
    let mut options = format!(
        "fd={},rootmode={rootmode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid().as_raw(),
        getegid().as_raw()
    );
    if allow_other {
        options.push_str(",allow_other");
    }
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("cloned", point, "fuse.cloned", flags, options.as_c_str())?;
    Ok(device.into())
}
