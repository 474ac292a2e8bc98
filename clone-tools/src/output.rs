//! Where a dump goes: to stdout, straight into whatever is no regular file, or into a file that
//! either is whole or does not change.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::input::is_dash;

const BUFFER: usize = 256 << 10;

/// Calls `write` with the output at `path`, or stdout if there is none. A regular file gets its
/// name only when it is whole and on the medium.
///
/// # Errors
/// Whatever failed, and on what.
pub fn write_to(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let Some(path) = path.filter(|path| !is_dash(path) && *path != Path::new("/dev/stdout")) else {
        return write_to_stdout(write).context("cannot write to stdout");
    };
    let written = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() || is_open_file(path) => {
            let excl = if metadata.file_type().is_block_device() { libc::O_EXCL } else { 0 };
            write_in_place(path, excl, write)
        }
        Ok(metadata) => match path.canonicalize() {
            // What a symbolic link points to is replaced, not the link.
            Ok(target) => replace(&target, metadata.permissions(), write),
            Err(error) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace(path, Permissions::from_mode(0o666), write)
        }
        Err(error) => Err(error),
    };
    written.with_context(|| format!("cannot write to {}", path.display()))
}

/// Writes small things for people or scripts to stdout. That nobody reads them is no failure.
///
/// # Errors
/// Any other failure.
pub fn say(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    match write_to_stdout(write) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

fn write_to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // Not the standard library's stdout, which looks for the end of every line.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    write_through_buffer(&stdout, write)
}

fn write_through_buffer(
    to: &File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(BUFFER, to);
    write(&mut to)?;
    to.flush()
}

fn write_in_place(
    path: &Path,
    flags: i32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    write_through_buffer(&file, write)?;
    match file.sync_all() {
        // Pipes and character devices have nothing to sync.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

fn replace(
    path: &Path,
    permissions: Permissions,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let folder = folder_of(path);
    let temporary = tempfile::Builder::new()
        .prefix(".clone_dump.")
        .permissions(permissions)
        .tempfile_in(&folder)?;
    write_through_buffer(temporary.as_file(), write)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    sync_folder(&folder)
}

/// Makes the names in a folder last.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder that `path` names a file in.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether `path` means a file that this process has open, which must not be replaced by another.
fn is_open_file(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}
