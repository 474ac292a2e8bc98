use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::FileSource;
use crate::block_io::device::ReadData;
use crate::block_io::scratch::Mounted;
use crate::block_io::{Access, Extent, Source};
use crate::dm_target::DeviceLimits;
use crate::geometry::Sectors;

const WAYS: [Access; 2] = [Access::Buffered, Access::Direct];

#[test]
fn bytes_are_read_from_where_they_lie_and_none_past_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    let content: Vec<u8> = (0..=255).cycle().take(10_007).collect();
    fs::write(&path, &content).unwrap();
    for access in WAYS {
        let device = FileSource::open(&path, access).unwrap();
        assert_eq!(device.size_bytes(), 10_007);
        assert_eq!(device.limits(), DeviceLimits { size: Sectors(19), logical_block_size: 512 });
        for (offset, len) in
            [(0, 10_007), (4096, 4096), (1, 4096), (4095, 2), (10_006, 1), (10_007, 0)]
        {
            let mut bytes = vec![0; len];
            device.read_at(offset as u64, &mut bytes).unwrap();
            assert_eq!(bytes, content[offset..offset + len], "{access:?} {offset} {len}");
        }
        for (offset, len) in [(10_000, 8), (10_007, 1), (u64::MAX, 1), (u64::MAX, 0)] {
            let error = device.read_at(offset, &mut vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn more_than_goes_through_a_buffer_at_once_is_read_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    let word = |at: u32| (at / 4).wrapping_mul(0x9e37_79b9).to_le_bytes()[at as usize % 4];
    let content: Vec<u8> = (0..(3 << 20) + 100).map(word).collect();
    fs::write(&path, &content).unwrap();
    let device = FileSource::open(&path, Access::Direct).unwrap();
    for (offset, len) in [(0, content.len()), (1, (2 << 20) + 17), (777, 1 << 20)] {
        let mut bytes = vec![0; len];
        device.read_at(offset as u64, &mut bytes).unwrap();
        assert!(bytes == content[offset..offset + len], "{offset} {len}");
    }
}

#[test]
fn data_that_were_found_are_not_looked_for_again_and_holes_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    let file = File::create(&path).unwrap();
    file.set_len(12 << 20).unwrap();
    file.write_all_at(&vec![1; 4 << 20], 4 << 20).unwrap();
    let source = FileSource::open(&path, Access::Buffered).unwrap();
    let extent = |mib: u64| source.extent(mib << 20).unwrap();
    let until = |zeroes, mib: u64| Extent { zeroes, end: mib << 20 };
    assert_eq!(
        [extent(0), extent(4), extent(9)],
        [until(true, 4), until(false, 8), until(true, 12)]
    );
    // Changes of the file after its extents were looked up.
    file.write_all_at(&[1; 4096], 9 << 20).unwrap();
    file.set_len(5 << 20).unwrap();
    file.set_len(12 << 20).unwrap();
    assert_eq!([extent(5), extent(8)], [until(false, 8), until(true, 12)]);
    file.write_all_at(&[1; 4096], 9 << 20).unwrap();
    assert_eq!([extent(7), extent(8)], [until(false, 8), until(true, 9)]);
}

#[test]
fn a_sparse_file_has_the_size_of_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let device = FileSource::open(&path, Access::Buffered).unwrap();
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
    for access in WAYS {
        let mut bytes = [0; 16];
        FileSource::open(&path, access).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 16]);
    }
}

#[test]
fn what_is_no_device_is_refused_by_its_name() {
    let message = |path: &Path| FileSource::open(path, Access::Buffered).unwrap_err().to_string();
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

#[test]
fn a_file_system_without_direct_io_is_told_with_the_way_out() {
    let path = Path::new("/proc/version");
    assert_eq!(
        FileSource::open(path, Access::Direct).unwrap_err().to_string(),
        "no direct I/O on /proc/version: its file system cannot do it; use the page cache instead"
    );
}

/// A file of 64 MiB with data in two places.
fn sparse_file(path: &Path) -> [(u64, u64); 2] {
    let file = File::create(path).unwrap();
    file.set_len(64 << 20).unwrap();
    let data = [(5 << 20, 1 << 20), (40 << 20, 4096)];
    for (offset, len) in data {
        file.write_all_at(&vec![1; len as usize], offset).unwrap();
    }
    data
}

#[test]
fn extents_of_zeroes_are_holes_and_no_data_are_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    let data = sparse_file(&path);
    for access in WAYS {
        let device = FileSource::open(&path, access).unwrap();
        let mut at = 0;
        let mut known_zeroes = 0;
        while at < device.size_bytes() {
            let Extent { zeroes, end } = device.extent(at).unwrap();
            assert!(at < end && end <= device.size_bytes(), "{at}: {end}");
            if zeroes {
                known_zeroes += end - at;
                assert!(data.iter().all(|&(offset, len)| offset + len <= at || end <= offset));
            }
            at = end;
        }
        // Within data, an extent ends where the data ends.
        let Extent { zeroes, end } = device.extent((5 << 20) + 1).unwrap();
        assert!(!zeroes && end >= 6 << 20);
        if known_zeroes == 0 {
            eprintln!("skipped: this file system knows no holes");
        } else {
            assert!(known_zeroes > 60 << 20, "{known_zeroes}");
        }
    }
}

#[test]
fn on_a_file_system_without_holes_all_is_data() {
    let Some(folder) = Mounted::new("ramfs", "mode=0700") else { return };
    let path = folder.path().join("source");
    sparse_file(&path);
    let device = FileSource::open(&path, Access::Buffered).unwrap();
    for offset in [0, 1 << 20, (64 << 20) - 1] {
        assert_eq!(device.extent(offset).unwrap(), Extent { zeroes: false, end: 64 << 20 });
    }
}

#[test]
fn a_file_that_was_cut_off_fails_for_ever_and_is_never_taken_for_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    sparse_file(&path);
    for access in WAYS {
        for first in [19_999_999, 20_000_000, 50 << 20] {
            let writer = File::options().write(true).open(&path).unwrap();
            writer.set_len(64 << 20).unwrap();
            let device = FileSource::open(&path, access).unwrap();
            writer.set_len(20_000_000).unwrap();
            // The rest can be read as long as the truncation was not noticed.
            device.read_at(19_000_000, &mut [0; 4096]).unwrap();
            let told = format!(
                "{} has become shorter: it had 67108864 bytes when it was opened, and has 20000000",
                path.display()
            );
            let is_told = |error: io::Error| assert_eq!(error.to_string(), told);
            match first {
                50_000_000.. => is_told(device.extent(first).unwrap_err()),
                _ => is_told(device.read_at(first, &mut [0; 4096]).unwrap_err()),
            }
            writer.set_len(64 << 20).unwrap();
            for offset in [19_000_000, 20_000_000] {
                is_told(device.read_at(offset, &mut [0; 4096]).unwrap_err());
                is_told(device.extent(offset).unwrap_err());
            }
        }
    }
}

#[test]
fn a_file_that_grows_keeps_the_size_that_it_was_opened_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    fs::write(&path, vec![1; 8192]).unwrap();
    for access in WAYS {
        let writer = File::options().write(true).open(&path).unwrap();
        writer.set_len(8192).unwrap();
        let device = FileSource::open(&path, access).unwrap();
        writer.write_all_at(&[2; 8192], 8192).unwrap();
        assert_eq!(device.size_bytes(), 8192);
        assert_eq!(device.extent(0).unwrap(), Extent { zeroes: false, end: 8192 });
        assert!(device.read_at(4096, &mut [0; 8192]).is_err());
    }
}
