use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::io::Errno;
use tempfile::TempDir;

use super::{FileDevice, OpenError};
use crate::block::RawBlock;
use crate::device::{Device, ReadDevice};
use crate::number::{BLOCK_SIZE, BlockNr};

fn filled(byte: u8) -> RawBlock {
    let mut block = RawBlock::ZERO;
    block.bytes_mut().fill(byte);
    block
}

/// Makes a file of `size_bytes` zeroes, which is deleted with its directory.
fn file_of(size_bytes: u64) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata");
    File::create(&path).unwrap().set_len(size_bytes).unwrap();
    (directory, path)
}

fn read_all(device: &impl ReadDevice) -> Vec<RawBlock> {
    let mut blocks = vec![filled(0xee); device.nr_blocks() as usize];
    device.read(BlockNr(0), &mut blocks).unwrap();
    blocks
}

/// Returns the error of each way to open `path`.
fn refusals(path: &Path) -> [OpenError; 3] {
    [
        FileDevice::open_read(path).unwrap_err(),
        FileDevice::open_live(path).unwrap_err(),
        FileDevice::open_write(path).unwrap_err(),
    ]
}

#[test]
fn what_is_written_is_read_again_by_every_way_to_open() {
    let (_directory, path) = file_of(5 * BLOCK_SIZE as u64);
    let expected = [RawBlock::ZERO, filled(1), filled(2), filled(3), RawBlock::ZERO];
    {
        let device = FileDevice::open_write(&path).unwrap();
        device.write(BlockNr(1), &expected[1..4]).unwrap();
        device.flush().unwrap();
        assert_eq!(read_all(&device), expected);
    }
    assert_eq!(read_all(&FileDevice::open_read(&path).unwrap()), expected);
    assert_eq!(read_all(&FileDevice::open_live(&path).unwrap()), expected);

    let device = FileDevice::open_read(&path).unwrap();
    let mut two = [RawBlock::ZERO, RawBlock::ZERO];
    device.read(BlockNr(2), &mut two).unwrap();
    assert_eq!(two, expected[2..4]);
}

#[test]
fn past_the_end_nothing_is_read_and_the_file_does_not_grow() {
    let (_directory, path) = file_of(2 * BLOCK_SIZE as u64);
    let device = FileDevice::open_write(&path).unwrap();
    for first in [1, 2, 3, u64::MAX / BLOCK_SIZE as u64, u64::MAX] {
        let at = BlockNr(first);
        let read = device.read(at, &mut [RawBlock::ZERO, RawBlock::ZERO]).unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::UnexpectedEof);
        let write = device.write(at, &[filled(1), filled(1)]).unwrap_err();
        assert_eq!(write.kind(), io::ErrorKind::UnexpectedEof);
    }
    device.read(BlockNr(2), &mut []).unwrap();
    device.write(BlockNr(2), &[]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [0; 2 * BLOCK_SIZE]);
}

#[test]
fn a_file_that_was_cut_after_opening_is_not_read_past_its_new_end() {
    let (_directory, path) = file_of(2 * BLOCK_SIZE as u64);
    let device = FileDevice::open_live(&path).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    let error = device.read(BlockNr(1), &mut [RawBlock::ZERO]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_part_of_a_block_at_the_end_is_counted_in_bytes_only_and_never_touched() {
    for (size_bytes, nr_blocks) in [(0, 0), (100, 0), (4095, 0), (4096, 1), (8191, 1), (8292, 2)] {
        let (_directory, path) = file_of(size_bytes);
        let device = FileDevice::open_write(&path).unwrap();
        assert_eq!(device.size_bytes(), size_bytes);
        assert_eq!(device.nr_blocks(), nr_blocks);
        device.write(BlockNr(0), &vec![filled(7); nr_blocks as usize]).unwrap();
        assert!(device.write(BlockNr(nr_blocks), &[filled(7)]).is_err());

        let live = FileDevice::open_live(&path).unwrap();
        assert_eq!(read_all(&live), vec![filled(7); nr_blocks as usize]);
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len() as u64, size_bytes);
        assert!(content[nr_blocks as usize * BLOCK_SIZE..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_file_that_is_being_written_can_only_be_read_live() {
    let (_directory, path) = file_of(BLOCK_SIZE as u64);
    let writer = FileDevice::open_write(&path).unwrap();
    for error in
        [FileDevice::open_write(&path).unwrap_err(), FileDevice::open_read(&path).unwrap_err()]
    {
        assert_eq!(
            error.to_string(),
            format!("{} is in use by another program; stop that first", path.display())
        );
    }
    FileDevice::open_live(&path).unwrap();
    drop(writer);
    FileDevice::open_write(&path).unwrap();
}

#[test]
fn readers_share_a_file_and_keep_writers_out() {
    let (_directory, path) = file_of(BLOCK_SIZE as u64);
    let readers = [FileDevice::open_read(&path).unwrap(), FileDevice::open_read(&path).unwrap()];
    assert!(matches!(FileDevice::open_write(&path), Err(OpenError::InUse { .. })));
    drop(readers);
    FileDevice::open_write(&path).unwrap();
}

#[test]
fn what_does_not_exist_is_not_found_and_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let dangling = directory.path().join("dangling");
    symlink(&missing, &dangling).unwrap();
    for path in [&missing, &dangling] {
        for error in refusals(path) {
            assert!(matches!(error, OpenError::NotFound { .. }), "{error:?}");
            assert_eq!(error.to_string(), format!("{} does not exist", path.display()));
        }
    }
    assert!(!missing.exists());
}

#[test]
fn a_directory_is_called_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    for error in refusals(directory.path()) {
        assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
    }
}

#[test]
fn a_character_device_is_refused() {
    for error in refusals(Path::new("/dev/null")) {
        assert!(matches!(error, OpenError::NotAFileOrBlockDevice { .. }), "{error:?}");
    }
    let null = File::open("/dev/null").unwrap();
    assert_eq!(FileDevice::from_file(null).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_fifo_is_refused_without_waiting_for_its_other_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(refusals(&path)).expect("the test waits for it"));
    for error in result.recv_timeout(Duration::from_secs(60)).expect("opening must not block") {
        assert!(matches!(error, OpenError::NotAFileOrBlockDevice { .. }), "{error:?}");
    }
}

#[test]
fn a_path_through_a_file_is_an_error_with_a_source() {
    let (_directory, path) = file_of(BLOCK_SIZE as u64);
    for error in refusals(&path.join("below")) {
        assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn refused_permission_is_told_apart_from_other_failures() {
    for errno in [Errno::ACCESS, Errno::PERM] {
        let error = OpenError::new(Path::new("/dev/x"), errno.into());
        assert!(matches!(error, OpenError::PermissionDenied { .. }), "{error:?}");
    }
}

#[test]
fn all_that_use_a_device_are_named() {
    let holders = vec!["dm device `clone0`".to_owned(), "the file system at `/mnt`".to_owned()];
    assert_eq!(
        OpenError::InUse { path: "/dev/vdb".into(), holders }.to_string(),
        "/dev/vdb is in use by dm device `clone0`, the file system at `/mnt`; stop that first"
    );
}

#[test]
fn a_file_system_in_memory_can_be_read_live() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: nothing can be written to /dev/shm");
        return;
    };
    let path = directory.path().join("metadata");
    fs::write(&path, [5; BLOCK_SIZE]).unwrap();
    assert_eq!(read_all(&FileDevice::open_live(&path).unwrap()), [filled(5)]);
}

#[test]
fn an_open_file_becomes_a_device_without_being_locked() {
    let (_directory, path) = file_of(2 * BLOCK_SIZE as u64);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let device = FileDevice::from_file(file).unwrap();
    device.write(BlockNr(1), &[filled(4)]).unwrap();
    let other = FileDevice::open_write(&path).unwrap().read_only();
    assert_eq!(read_all(&other), [RawBlock::ZERO, filled(4)]);
    assert!(matches!(FileDevice::open_read(&path), Err(OpenError::InUse { .. })));
}

#[test]
fn a_write_to_a_file_that_is_open_for_reading_fails() {
    let (_directory, path) = file_of(BLOCK_SIZE as u64);
    let device = FileDevice::from_file(File::open(&path).unwrap()).unwrap();
    assert!(device.write(BlockNr(0), &[filled(1)]).is_err());
    assert_eq!(read_all(&device), [RawBlock::ZERO]);
}

#[test]
fn the_tail_is_what_is_left_after_the_last_whole_block() {
    for tail in [0, 1, 511, BLOCK_SIZE - 1] {
        let (_directory, path) = file_of(0);
        let mut bytes = vec![1; 2 * BLOCK_SIZE];
        bytes.resize(2 * BLOCK_SIZE + tail, 2);
        fs::write(&path, bytes).unwrap();
        let device = FileDevice::open_read(&path).unwrap();
        assert_eq!(device.tail().unwrap(), vec![2; tail]);
    }
}

#[test]
fn holes_are_skipped_and_nothing_else() {
    const MIB: u64 = (1 << 20) / BLOCK_SIZE as u64;
    let (_directory, path) = file_of(64 << 20);
    let device = FileDevice::open_write(&path).unwrap();
    let end = device.nr_blocks();
    assert_eq!(end, 64 * MIB);
    let data = [0, 1, 20 * MIB + 3, 50 * MIB];
    for at in data {
        device.write(BlockNr(at), &[filled(1)]).unwrap();
    }
    for from in 0..end + 2 {
        let next = device.skip_hole(BlockNr(from)).0;
        let next_data = data.into_iter().find(|&at| at >= from).unwrap_or(end);
        // A file system may keep more than the written data.
        assert!(from.min(end) <= next && next <= next_data, "from {from}: {next}");
    }
    let (_directory, path) = file_of(64 << 20);
    let empty = FileDevice::open_read(&path).unwrap();
    assert!([0, end].contains(&empty.skip_hole(BlockNr(0)).0));
}

#[test]
fn a_file_that_is_written_is_locked_against_those_who_lock_open_files_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(BLOCK_SIZE as u64).unwrap();
    let lock = |kind: libc::c_int| {
        let all = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 100,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(file.as_file(), FcntlArg::F_OFD_SETLK(&all)).map_err(|error| error as i32).map(drop)
    };
    let device = FileDevice::open_write(file.path()).unwrap();
    assert_eq!(lock(libc::F_RDLCK), Err(libc::EAGAIN));
    drop(device);
    let device = FileDevice::open_read(file.path()).unwrap();
    assert_eq!(lock(libc::F_WRLCK), Err(libc::EAGAIN));
    assert_eq!(lock(libc::F_RDLCK), Ok(()));
    drop(device);
    // One byte that another process has locked is enough.
    lock(libc::F_WRLCK).unwrap();
    let refused = FileDevice::open_write(file.path()).map(drop);
    assert!(matches!(refused, Err(OpenError::InUse { .. })), "{refused:?}");
}

#[test]
fn a_flush_of_a_file_that_became_shorter_fails_whatever_is_written_to_it() {
    let (_directory, path) = file_of(4 * BLOCK_SIZE as u64);
    let device = FileDevice::open_write(&path).unwrap();
    device.write(BlockNr(0), &[filled(1), filled(2), filled(3), filled(4)]).unwrap();
    device.flush().unwrap();
    File::options().write(true).open(&path).unwrap().set_len(BLOCK_SIZE as u64).unwrap();
    let told = "it has become shorter: it had 16384 bytes when it was opened, and 4096 now";
    assert_eq!(device.flush().unwrap_err().to_string(), told);
    // This makes the file longer again, but not as long as before.
    device.write(BlockNr(2), &[filled(3)]).unwrap();
    let told = "it has become shorter: it had 16384 bytes when it was opened, and 12288 now";
    assert_eq!(device.flush().unwrap_err().to_string(), told);
    assert_eq!(device.write(BlockNr(3), &[filled(4)]).unwrap_err().to_string(), told);
    assert_eq!(device.flush().unwrap_err().to_string(), told);
}

#[test]
fn a_flush_of_a_file_that_was_deleted_fails() {
    let (directory, path) = file_of(4 * BLOCK_SIZE as u64);
    let device = FileDevice::open_write(&path).unwrap();
    // A second name is enough.
    let other = directory.path().join("other");
    fs::rename(&path, &other).unwrap();
    device.flush().unwrap();
    fs::remove_file(&other).unwrap();
    let told = device.flush().unwrap_err().to_string();
    assert_eq!(told, "it has been deleted: what is in it is gone when it is closed");
    // A file that had no name when it was opened is accepted.
    let file = tempfile::tempfile().unwrap();
    file.set_len(BLOCK_SIZE as u64).unwrap();
    FileDevice::from_file(file).unwrap().flush().unwrap();
}
