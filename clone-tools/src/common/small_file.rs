//! Reads small files that a user names: settings, tables, traces, certificates.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Reads the regular file at `path`, of at most `max` bytes.
///
/// It never blocks: opening a FIFO would wait for a writer, and opening some devices has side
/// effects. Files that are not regular are therefore refused.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) only if the name does not exist. A dangling symbolic link
/// is a different error, so that a file that is temporarily absent does not count as one that never
/// existed. [`InvalidInput`](io::ErrorKind::InvalidInput) if the file is not regular,
/// [`FileTooLarge`](io::ErrorKind::FileTooLarge) if it is too long, and any other I/O error.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let about = fs::metadata(path).map_err(|error| told(path, error))?;
    refuse_odd(&about)?;
    let mut options = OpenOptions::new();
    // The file may have been replaced in the meantime.
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    refuse_odd(&file.metadata()?)?;
    read_open(file, max)
}

/// Reads a text in UTF-8, otherwise like [`read`].
///
/// # Errors
/// As for [`read`], and [`InvalidData`](io::ErrorKind::InvalidData) if it is not UTF-8.
pub fn read_text(path: &Path, max: u64) -> io::Result<String> {
    let bytes = read(path, max)?;
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8"))
}

fn read_open(file: File, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let told = format!("it is longer than {max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, told));
    }
    Ok(bytes)
}

fn refuse_odd(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let told = format!("it is {}, not a regular file", kind(metadata.file_type()));
    Err(io::Error::new(io::ErrorKind::InvalidInput, told))
}

fn kind(of: FileType) -> &'static str {
    match () {
        () if of.is_dir() => "a directory",
        () if of.is_fifo() => "a FIFO or a pipe",
        () if of.is_socket() => "a socket",
        () if of.is_block_device() => "a block device",
        () if of.is_char_device() => "a character device",
        () => "a file of unknown type",
    }
}

/// Distinguishes a dangling symbolic link from a missing name.
fn told(path: &Path, error: io::Error) -> io::Error {
    match fs::read_link(path) {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => {
            let target = target.display();
            io::Error::other(format!("it is a symbolic link to {target}, which does not exist"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::{read, read_text};

    #[test]
    fn only_regular_files_of_bounded_size_are_read_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "12345").unwrap();
        symlink("file", path("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&path(name), 5).unwrap(), b"12345");
            let told = read(&path(name), 4).unwrap_err().to_string();
            assert_eq!(told, "it is longer than 4 bytes");
        }
        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        symlink("fifo", path("to fifo")).unwrap();
        symlink("nowhere", path("to nowhere")).unwrap();
        for (name, told) in [
            ("fifo", "it is a FIFO or a pipe, not a regular file"),
            ("to fifo", "it is a FIFO or a pipe, not a regular file"),
            ("socket", "it is a socket, not a regular file"),
            (".", "it is a directory, not a regular file"),
            ("/dev/zero", "it is a character device, not a regular file"),
            ("to nowhere", "it is a symbolic link to nowhere, which does not exist"),
        ] {
            let error = read(&path(name), 100).unwrap_err();
            assert_eq!(error.to_string(), told);
            assert_ne!(error.kind(), io::ErrorKind::NotFound, "{name}");
        }
        let missing = read(&path("nowhere"), 100).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        fs::write(path("file"), [0xff]).unwrap();
        assert_eq!(read_text(&path("file"), 5).unwrap_err().to_string(), "it is not text in UTF-8");
    }
}
