//! Allocates disk space for metadata that is a regular file.
//!
//! A sparse file takes space only when it is written. If other data has filled the file system by
//! then, such as a destination on the same one, the commit fails and the clone becomes read-only.
//! The blocks of the metadata are therefore allocated when it is created or opened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, anyhow};
use persistent_data::BLOCK_SIZE;
use rustix::fs::{FallocateFlags, FileType, IFlags, fallocate, fstat, fstatfs, fstatvfs};
use rustix::io::{Errno, retry_on_intr};

use crate::common::units::Counted;

/// The result of an allocation.
pub enum Room {
    /// No write within the file needs more space.
    Kept,
    /// Writes may need more space, for this reason.
    NotKept(&'static str),
}

const COPIED: &str = "its file system never overwrites in place, so a commit fails if the file \
                      system is full; keep space free, or put the metadata elsewhere";
const SPARSE: &str = "its file system cannot allocate blocks in advance, so a commit fails if the \
                      file system is full; keep space free, or put the metadata elsewhere";

impl Room {
    /// Returns the warning about metadata at `path`, if any.
    pub fn warning(&self, path: &Path) -> Option<String> {
        match self {
            Self::Kept => None,
            Self::NotKept(reason) => Some(format!("{}: {reason}", path.display())),
        }
    }
}

/// Allocates all blocks of existing metadata and keeps its content. Does nothing for a block
/// device.
///
/// # Errors
/// The file system has too little space; the message says how much is missing. The file is
/// unchanged.
pub fn allocate(file: impl AsFd, path: &Path) -> Result<Room> {
    let file = file.as_fd();
    let told = |error: Errno| error_of(path, file, size_of(file), error);
    let stat = fstat(file).map_err(told)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Room::Kept);
    }
    Ok(match reserve(file, size_of(file)).map_err(told)? {
        true => room_on(file),
        false if size_of(file) <= allocated(file) => room_on(file),
        false => Room::NotKept(SPARSE),
    })
}

/// Extends a file that has only its first block to `size_bytes`, which is more than a block. All
/// its blocks are allocated, and the new ones are zero.
///
/// # Errors
/// The file system has too little space; the message says how much is missing.
pub fn extend(file: &File, path: &Path, size_bytes: u64) -> Result<Room> {
    let told = |error: io::Error| match Errno::from_io_error(&error) {
        Some(error) => error_of(path, file.as_fd(), size_bytes, error),
        None => anyhow!(error).context(format!("cannot make {}", path.display())),
    };
    if !reserve(file.as_fd(), size_bytes).map_err(|error| told(error.into()))? {
        write_zeroes(file, size_bytes).map_err(told)?;
    }
    file.set_len(size_bytes).map_err(told)?;
    Ok(room_on(file.as_fd()))
}

/// Allocates `size_bytes`. Returns whether the file system supports that.
fn reserve(file: BorrowedFd<'_>, size_bytes: u64) -> rustix::io::Result<bool> {
    let all = || fallocate(file, FallocateFlags::empty(), 0, size_bytes);
    match retry_on_intr(all) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes zeroes from the second block on and syncs them: then their space is allocated for good.
fn write_zeroes(file: &File, size_bytes: u64) -> io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    let mut at = BLOCK_SIZE as u64;
    while at < size_bytes {
        let len = (size_bytes - at).min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..len as usize], at)?;
        at += len;
    }
    file.sync_data()
}

fn size_of(file: BorrowedFd<'_>) -> u64 {
    fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0)
}

fn allocated(file: BorrowedFd<'_>) -> u64 {
    let blocks = fstat(file).ok().and_then(|stat| u64::try_from(stat.st_blocks).ok());
    blocks.unwrap_or(0).saturating_mul(512)
}

/// Returns the value of allocated blocks on the file system of `file`.
fn room_on(file: BorrowedFd<'_>) -> Room {
    let kind = fstatfs(file).map_or(0, |system| system.f_type as u64 & 0xffff_ffff);
    let in_place = rustix::fs::ioctl_getflags(file);
    let in_place = in_place.is_ok_and(|flags| flags.contains(IFlags::NOCOW));
    if copies(kind) && !in_place { Room::NotKept(COPIED) } else { Room::Kept }
}

/// True for a file system, given by its magic number, that never overwrites in place.
fn copies(kind: u64) -> bool {
    const BTRFS: u64 = 0x9123_683e;
    const ZFS: u64 = 0x2fc1_2fc1;
    const BCACHEFS: u64 = 0xca45_1a4e;
    [BTRFS, ZFS, BCACHEFS].contains(&kind)
}

/// Returns the error for a file that cannot have `size_bytes`.
fn error_of(path: &Path, file: BorrowedFd<'_>, size_bytes: u64, error: Errno) -> anyhow::Error {
    let name = path.display();
    if !matches!(error, Errno::NOSPC | Errno::DQUOT) {
        let told = format!("cannot allocate {} for {name}", Counted(size_bytes, "byte"));
        return anyhow!(io::Error::from(error)).context(told);
    }
    let needed = size_bytes.saturating_sub(allocated(file));
    let free = fstatvfs(file).map_or(0, |system| system.f_bavail.saturating_mul(system.f_frsize));
    let missing = match needed.checked_sub(free) {
        Some(missing @ 1..) if error == Errno::NOSPC => {
            format!("{} are missing on its file system", Counted(missing, "byte"))
        }
        _ if error == Errno::NOSPC => "its file system is full".to_owned(),
        _ => "the quota of this user is used up".to_owned(),
    };
    anyhow!(
        "no room for {name}: it needs {}, and {missing}; free them, or put the metadata elsewhere",
        Counted(needed, "byte")
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    use super::{Room, allocate, copies, extend};

    #[test]
    fn a_file_that_was_sparse_has_its_blocks_and_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata");
        fs::write(&path, [7; 4096]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_len(64 << 12).unwrap();
        assert!(file.metadata().unwrap().blocks() < 64 * 8);
        let room = allocate(&file, &path).unwrap();
        let mut content = vec![7; 4096];
        content.resize(64 << 12, 0);
        assert!(fs::read(&path).unwrap() == content);
        // On every file system, a file whose space is kept has all its blocks.
        assert!(matches!(room, Room::NotKept(_)) || file.metadata().unwrap().blocks() >= 64 * 8);
    }

    #[test]
    fn a_file_is_made_longer_with_all_its_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata");
        fs::write(&path, [7; 4096]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        extend(&file, &path, 20 << 12).unwrap();
        assert!(file.metadata().unwrap().blocks() >= 20 * 8);
        let content = fs::read(&path).unwrap();
        assert!(content.len() == 20 << 12 && content[4096..].iter().all(|&byte| byte == 0));
        assert!(content[..4096] == [7; 4096]);
    }

    #[test]
    fn file_systems_that_overwrite_nothing_in_place_are_known() {
        for (kind, expected) in [(0x9123_683e, true), (0x2fc1_2fc1, true), (0xef53, false)] {
            assert_eq!(copies(kind), expected);
        }
    }
}
