//! A clone's source or destination, to be compared with the other one.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use anyhow::{Context, Result};
use clone_core::content::ReadData;
use persistent_data::device::OpenError;

/// A block device, or a regular file in its place, that is only read.
///
/// It keeps nobody out: a source may well be mounted, or be the source of other clones. Where the
/// page cache holds what the destination held earlier, less can be decided, but nothing wrongly:
/// what could be called hydrated then can be so now.
#[derive(Debug)]
pub struct FileData {
    file: File,
    size_bytes: u64,
}

impl FileData {
    /// Opens what lies at `path`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &Path) -> Result<Self> {
        let refused = |source: io::Error| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound => OpenError::NotFound { path },
                io::ErrorKind::PermissionDenied => OpenError::PermissionDenied { path },
                _ => OpenError::Io { path, source },
            }
        };
        // Asked before opening, since opening a FIFO waits for somebody to write to it.
        let file_type = fs::metadata(path).map_err(refused)?.file_type();
        if file_type.is_dir() {
            return Err(OpenError::Directory { path: path.to_owned() }.into());
        }
        if !file_type.is_file() && !file_type.is_block_device() {
            return Err(OpenError::NotAFileOrBlockDevice { path: path.to_owned() }.into());
        }
        let mut file = File::open(path).map_err(refused)?;
        // The metadata of a block device say nothing about its size; its end does.
        let size_bytes = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("cannot tell the size of {}", path.display()))?;
        Ok(Self { file, size_bytes })
    }
}

impl ReadData for FileData {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use clone_core::content::ReadData;

    use super::FileData;

    fn message(path: &Path) -> String {
        FileData::open(path).unwrap_err().to_string()
    }

    #[test]
    fn bytes_are_read_from_where_they_lie_and_none_past_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        let content: Vec<u8> = (0..=255).cycle().take(10_007).collect();
        fs::write(&path, &content).unwrap();
        let device = FileData::open(&path).unwrap();
        assert_eq!(device.size_bytes(), 10_007);
        for (offset, len) in [(0, 10_007), (4096, 4096), (10_006, 1), (10_007, 0)] {
            let mut bytes = vec![0; len];
            device.read_at(offset as u64, &mut bytes).unwrap();
            assert_eq!(bytes, content[offset..offset + len]);
        }
        let error = device.read_at(10_000, &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_sparse_file_has_the_size_of_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("destination");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let device = FileData::open(&path).unwrap();
        assert_eq!(device.size_bytes(), 1 << 40);
        let mut bytes = [7; 512];
        device.read_at((1 << 40) - 512, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 512]);
    }

    #[test]
    fn what_somebody_else_writes_to_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in_use");
        fs::write(&path, [1; 4096]).unwrap();
        let user = File::options().read(true).write(true).open(&path).unwrap();
        user.lock().unwrap();
        let mut bytes = [0; 16];
        FileData::open(&path).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 16]);
    }

    #[test]
    fn what_is_no_device_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().display();
        let directory = format!("{told} is a directory; give a block device or a file");
        assert_eq!(message(folder.path()), directory);

        let missing = folder.path().join("missing");
        assert_eq!(message(&missing), format!("{told}/missing does not exist"));

        let unfit = "is neither a block device nor a regular file";
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(message(&socket), format!("{told}/socket {unfit}"));
        assert_eq!(message(Path::new("/dev/null")), format!("/dev/null {unfit}"));
    }
}
