//! Outputs for dumps, packs and pictures: stdout, a file that is not regular (written directly), or
//! a regular file, which is replaced atomically or not at all.

use std::error::Error;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::common::paths::{folder_of, is_dash};

const BUFFER: usize = 256 << 10;

/// Calls `write` with the output at `path`, or stdout if `path` is `None`. A regular file gets its
/// name only after it is complete and synced.
///
/// # Errors
/// The output cannot be opened, created, written, synced or renamed, or `write` fails. The error
/// names the output.
pub fn write_to(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let Some(path) = path.filter(|path| !is_stdout(path)) else {
        return write_to_stdout(write).context("cannot write to stdout");
    };
    let written = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() || is_open_file(path) => {
            let excl = if metadata.file_type().is_block_device() { libc::O_EXCL } else { 0 };
            write_in_place(path, excl, write)
        }
        _ => replace(path, |file| write_through_buffer(file, write)),
    };
    written.with_context(|| format!("cannot write to {}", path.display()))
}

/// Refuses to write binary data to a terminal.
///
/// # Errors
/// `path` stands for stdout, and stdout is a terminal.
pub fn refuse_terminal(path: &Path) -> Result<()> {
    if is_stdout(path) && io::stdout().is_terminal() {
        bail!("refusing to write binary data to a terminal; redirect stdout");
    }
    Ok(())
}

/// True if `path` stands for stdout.
pub(crate) fn is_stdout(path: &Path) -> bool {
    is_dash(path) || path == Path::new("/dev/stdout")
}

/// Writes a short text or JSON document to stdout. A closed pipe is not an error.
///
/// # Errors
/// `write` fails, or stdout cannot be written for another reason.
pub fn say(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    match write_to_stdout(write) {
        Err(error) if ReaderGone::is_in(&error) => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

fn write_to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // The standard library's stdout searches each write for line ends.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    write_through_buffer(&stdout, write)
}

fn write_through_buffer(
    to: &File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file_type = to.metadata()?.file_type();
    let has_reader = !file_type.is_file() && !file_type.is_block_device();
    let mut to = BufWriter::with_capacity(BUFFER, Stream { to, has_reader });
    write(&mut to)?;
    to.flush()
}

/// A writer that turns the broken pipe of an output into [`ReaderGone`].
struct Stream<'a> {
    to: &'a File,
    /// True for a pipe and the like. From storage, a broken pipe is an I/O error like any other.
    has_reader: bool,
}

impl Stream<'_> {
    fn told<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe if self.has_reader => ReaderGone::error(),
            _ => error,
        })
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes);
        self.told(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.to.flush();
        self.told(flushed)
    }
}

/// The reader of the output is gone. The error is carried inside an [`io::Error`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the reader has closed the output")]
pub struct ReaderGone;

impl ReaderGone {
    pub(crate) fn error() -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, Self)
    }

    /// Returns whether `error` carries [`ReaderGone`].
    pub fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Self>)
    }
}

fn write_in_place(
    path: &Path,
    flags: i32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    write_through_buffer(&file, write)?;
    match file.sync_all() {
        // Pipes and character devices cannot be synced.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Replaces the file at `path` with a new file that `write` fills, or creates it. A symbolic link
/// stays: its target is replaced or created.
///
/// # Errors
/// `write` or the file system fails. The old file is then unchanged.
pub fn replace<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&File) -> Result<(), E>,
) -> Result<(), E> {
    let (path, permissions) = match fs::metadata(path) {
        Ok(metadata) => (path.canonicalize()?, Some(metadata.permissions())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (end_of_links(path)?, None),
        Err(error) => return Err(error.into()),
    };
    let folder = folder_of(&path);
    let temporary = tempfile::Builder::new()
        .prefix(".clone_tools.")
        // Never more permissive than the file that it replaces, not even for a moment.
        .permissions(permissions.clone().unwrap_or(Permissions::from_mode(0o666)))
        .tempfile_in(&folder)
        .map_err(|error| cannot_make_in(&folder, &error))?;
    if let Some(permissions) = permissions {
        // The umask applies to new files only.
        temporary.as_file().set_permissions(permissions)?;
    }
    write(temporary.as_file())?;
    temporary.as_file().sync_all()?;
    temporary.persist(&path).map_err(io::Error::from)?;
    Ok(sync_folder(&folder)?)
}

/// Follows symbolic links from `path` to the path of a file that does not exist yet.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    // The kernel's limit. The kernel has also found that the links form no loop.
    const LINKS_MAX: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(target) => path = folder_of(&path).join(target),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Describes why the temporary file was not created, without its meaningless name.
fn cannot_make_in(folder: &Path, error: &io::Error) -> io::Error {
    let name = folder.display();
    let said = if error.kind() == io::ErrorKind::NotFound && !folder.exists() {
        format!("the directory {name} does not exist")
    } else {
        let said = error.to_string();
        let why = said.rsplit_once(" at path ").map_or(said.as_str(), |(why, _)| why);
        format!("cannot make a file in {name}: {why}")
    };
    io::Error::new(error.kind(), said)
}

/// Syncs a folder so that the names in it survive a crash, if its file system supports that. The
/// files themselves must be synced before.
///
/// # Errors
/// The folder cannot be opened or synced: its names may not survive a crash.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if !cannot_be_asked(&error) => Err(io::Error::new(
            error.kind(),
            format!("the file is complete, but its name may not survive a crash: {error}"),
        )),
        _ => Ok(()),
    }
}

/// True if a folder can never be synced: it is write-only for this user, or its file system does
/// not support it.
fn cannot_be_asked(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP))
}

/// True if `path` stands for an open file of this process, which must not be replaced.
pub(crate) fn is_open_file(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::{cannot_be_asked, sync_folder};

    #[test]
    fn a_folder_that_is_never_synced_is_no_failure() {
        sync_folder(&std::env::temp_dir()).unwrap();
        // The file system of /proc returns EINVAL.
        sync_folder(Path::new("/proc")).unwrap();
        let error = sync_folder(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("may not survive a crash"), "{error}");
        let accepted = |code| cannot_be_asked(&io::Error::from_raw_os_error(code));
        assert!([libc::EACCES, libc::EINVAL, libc::EOPNOTSUPP].into_iter().all(accepted));
        assert!(![libc::EIO, libc::ENOSPC, libc::EROFS].into_iter().any(accepted));
    }
}
