use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{FileDestination, Flushes};
use crate::content::ReadData;
use crate::driver::{Access, Destination};

const WAYS: [Access; 2] = [Access::Buffered, Access::Direct];

/// A file of `size_bytes` zeroes, which goes with its directory.
fn file_of(size_bytes: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("destination");
    File::create(&path).unwrap().set_len(size_bytes).unwrap();
    (folder, path)
}

#[test]
fn what_is_written_is_read_again_at_any_alignment() {
    for access in WAYS {
        let (_folder, path) = file_of(3 << 20);
        let device = FileDestination::open(&path, access).unwrap();
        let mut model = vec![0; 3 << 20];
        let ranges = [(0, 4096), (1, 1), (4095, 2), (512, 512), (8191, 1 << 20), (5, 3_000_000)];
        for (tag, (offset, len)) in (1..).zip(ranges) {
            let data: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(tag)).collect();
            device.write_at(offset as u64, &data).unwrap();
            model[offset..][..len].copy_from_slice(&data);
            device.flush().unwrap();
            assert!(fs::read(&path).unwrap() == model, "{access:?} {offset} {len}");
        }
        let mut part = vec![0; 5000];
        device.read_at(4097, &mut part).unwrap();
        assert_eq!(part, model[4097..9097]);
    }
}

#[test]
fn after_a_flush_that_failed_every_flush_fails() {
    let flushes = Flushes::default();
    flushes.run(|| Ok(())).unwrap();
    let error = flushes.run(|| Err(io::Error::from_raw_os_error(5))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    for _ in 0..2 {
        let error = flushes.run(|| unreachable!("nobody asks the device again")).unwrap_err();
        assert_eq!(error.to_string(), "an earlier flush failed: Input/output error (os error 5)");
    }
}
