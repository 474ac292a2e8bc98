use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use persistent_data::device::OpenError;
use tempfile::TempDir;

use super::{FileDestination, Flushes};
use crate::block_io::device::ReadData;
use crate::block_io::scratch::{LoopDevice, Mounted};
use crate::block_io::{Access, Destination, Extent, FileSource, Source};
use crate::dm_target::DeviceLimits;
use crate::geometry::Sectors;

mod cut_off;
mod overlapping;

const WAYS: [Access; 2] = [Access::Buffered, Access::Direct];

const MIB: usize = 1 << 20;

/// A file of `size_bytes` zeroes, which is removed with its directory.
fn file_of(size_bytes: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = file_in(folder.path(), size_bytes);
    (folder, path)
}

fn file_in(folder: &Path, size_bytes: usize) -> PathBuf {
    let path = folder.join("destination");
    File::create(&path).unwrap().set_len(size_bytes as u64).unwrap();
    path
}

/// Bytes of which none is zero.
fn filling(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 + 1).collect()
}

/// Calls `test` with devices of `size_bytes` zeroes: files on several file systems, and block
/// devices, each with both kinds of access.
fn on_all(size_bytes: usize, test: impl Fn(&str, &FileDestination)) {
    let (folder, _) = file_of(0);
    let tmpfs = Mounted::new("tmpfs", "mode=0700");
    let ramfs = Mounted::new("ramfs", "mode=0700");
    let folders = [
        ("a file", Some(folder.path())),
        ("a file in tmpfs", tmpfs.as_ref().map(Mounted::path)),
        // It supports neither holes nor direct I/O.
        ("a file in ramfs", ramfs.as_ref().map(Mounted::path)),
    ];
    for access in WAYS {
        let open = |path: &Path| FileDestination::open(path, access);
        for (name, folder) in folders.iter().filter_map(|&(name, folder)| Some((name, folder?))) {
            eprintln!("{name}, {access:?}");
            match open(&file_in(folder, size_bytes)) {
                Ok(device) => test(&format!("{name}, {access:?}"), &device),
                Err(error) => assert!(access == Access::Direct, "{name}: {error}"),
            }
            for block_bytes in [512, 4096, 16384] {
                let blocks = LoopDevice::new(folder, size_bytes as u64, block_bytes);
                let Some(blocks) = blocks else { continue };
                let name = format!("blocks of {block_bytes} on {name}, {access:?}");
                eprintln!("{name}");
                test(&name, &open(&blocks.path).unwrap());
            }
        }
    }
}

fn content(device: &FileDestination) -> Vec<u8> {
    let mut content = vec![0xee; device.size_bytes() as usize];
    device.read_at(0, &mut content).unwrap();
    content
}

/// Ranges that begin and end on blocks, within them, or touch only one.
fn ranges() -> Vec<Range<usize>> {
    let edges = [0, 1, 511, 512, 4095, 4096, 4097, 8192, 12_800, 16_384, 40_000, MIB + 1, 2 * MIB];
    let pairs = |start| edges.iter().map(move |&end| start..end);
    edges.iter().flat_map(|&start| pairs(start)).filter(|range| range.start <= range.end).collect()
}

#[test]
fn what_is_written_is_read_again_at_any_alignment() {
    on_all(2 * MIB, |name, device| {
        let mut model = vec![0; 2 * MIB];
        for (tag, range) in (1..).zip(ranges()) {
            let data: Vec<u8> = range.clone().map(|at| (at as u8).wrapping_mul(tag)).collect();
            device.write_at(range.start as u64, &data).unwrap();
            model[range.clone()].copy_from_slice(&data);
            let mut read = vec![0xee; range.len()];
            device.read_at(range.start as u64, &mut read).unwrap();
            assert!(read == data, "{name}: {range:?}");
        }
        device.flush().unwrap();
        assert!(content(device) == model, "{name}");
    });
}

#[test]
fn what_is_zeroed_is_zero_and_the_rest_stays() {
    on_all(2 * MIB, |name, device| {
        for deallocate in [false, true] {
            let mut model = filling(2 * MIB);
            device.write_at(0, &model).unwrap();
            // Twice, so that existing holes are zeroed, too.
            for range in
                ranges().into_iter().rev().step_by(7).flat_map(|range| [range.clone(), range])
            {
                device.zero(range.start as u64..range.end as u64, deallocate).unwrap();
                model[range.clone()].fill(0);
                assert!(content(device) == model, "{name}: {range:?}");
                let again = filling(range.len() / 2);
                device.write_at(range.start as u64, &again).unwrap();
                model[range.start..][..again.len()].copy_from_slice(&again);
            }
            device.flush().unwrap();
            assert!(content(device) == model, "{name}");
        }
    });
}

#[test]
fn what_is_discarded_does_not_matter_but_the_rest_does() {
    on_all(2 * MIB, |name, device| {
        let model = filling(2 * MIB);
        for range in ranges() {
            device.write_at(0, &model).unwrap();
            device.discard(range.start as u64..range.end as u64).unwrap();
            let mut content = content(device);
            content[range.clone()].copy_from_slice(&model[range.clone()]);
            assert!(content == model, "{name}: {range:?}");
        }
    });
}

/// Bytes that a file uses on its file system.
fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn zeroes_take_room_only_if_they_may_not_be_a_hole() {
    for access in WAYS {
        let (_folder, path) = file_of(4 * MIB);
        let device = FileDestination::open(&path, access).unwrap();
        device.write_at(0, &filling(4 * MIB)).unwrap();
        device.flush().unwrap();
        let full = allocated(&path);
        let part = 4096..3 * MIB as u64;
        device.zero(part.clone(), false).unwrap();
        assert!(allocated(&path) >= full);
        device.zero(part.clone(), true).unwrap();
        // Space that is known to read as zeroes may be allocated for a reason: it is kept.
        let kept = allocated(&path);
        device.write_at(0, &filling(4 * MIB)).unwrap();
        device.flush().unwrap();
        device.zero(part.clone(), true).unwrap();
        let holed = allocated(&path);
        if holed == full {
            eprintln!("skipped: this file system makes no holes");
            return;
        }
        assert!(
            kept >= full - MIB as u64 && holed < full - 2 * MIB as u64,
            "{full} {kept} {holed}"
        );
        device.discard(0..4 * MIB as u64).unwrap();
        assert!(allocated(&path) < MIB as u64);
        assert_eq!(fs::metadata(&path).unwrap().len(), 4 * MIB as u64);
        device.zero(0..MIB as u64, false).unwrap();
        device.flush().unwrap();
        assert!(allocated(&path) >= MIB as u64, "zeroes that must not be a hole");
    }
}

#[test]
fn a_block_device_gives_back_what_is_discarded_or_zeroed() {
    let (folder, _) = file_of(0);
    for deallocate in [false, true] {
        let Some(blocks) = LoopDevice::new(folder.path(), 8 * MIB as u64, 512) else { return };
        let device = FileDestination::open(&blocks.path, Access::Direct).unwrap();
        let fill = || {
            device.write_at(0, &filling(8 * MIB)).unwrap();
            device.flush().unwrap();
            assert!(allocated(&blocks.backing) >= 8 * MIB as u64);
        };
        fill();
        device.zero(100..6 * MIB as u64, deallocate).unwrap();
        assert_eq!(allocated(&blocks.backing) < 3 * MIB as u64, deallocate);
        fill();
        device.discard(100..6 * MIB as u64).unwrap();
        assert!(allocated(&blocks.backing) < 3 * MIB as u64);
    }
}

/// The ranges of one of `nr` threads: runs of `run` bytes, from run `nr_of_thread` on.
fn own(
    nr_of_thread: usize,
    nr: usize,
    run: usize,
    size: usize,
) -> impl Iterator<Item = Range<usize>> {
    let starts = (nr_of_thread * run..size).step_by(nr * run);
    starts.map(move |start| start..(start + run).min(size))
}

#[test]
fn writes_of_many_threads_to_different_bytes_do_not_undo_each_other() {
    const THREADS: usize = 4;
    const SIZE: usize = 64 << 10;
    on_all(SIZE, |name, device| {
        // Shorter than a block, a little longer, and long enough to cover a block.
        for run in [37, 700, 5001] {
            let work = |nr_of_thread: usize| {
                for round in 1..=3 {
                    for range in own(nr_of_thread, THREADS, run, SIZE) {
                        let zeroes = range.start as u64..range.end as u64;
                        match (range.start / run + round) % 3 {
                            0 => device.zero(zeroes, round == 2).unwrap(),
                            tag => {
                                let data = vec![(nr_of_thread * 16 + tag) as u8; range.len()];
                                device.write_at(range.start as u64, &data).unwrap();
                            }
                        }
                    }
                }
            };
            thread::scope(|scope| {
                for nr_of_thread in 0..THREADS {
                    scope.spawn(move || work(nr_of_thread));
                }
            });
            let mut model = vec![0; SIZE];
            for nr_of_thread in 0..THREADS {
                for range in own(nr_of_thread, THREADS, run, SIZE) {
                    if let tag @ 1.. = (range.start / run + 3) % 3 {
                        model[range].fill((nr_of_thread * 16 + tag) as u8);
                    }
                }
            }
            assert!(content(device) == model, "{name}: runs of {run}");
        }
    });
}

/// The kernel takes over the size of blocks when a device is opened first, and never if udev, for
/// one, opened it before it was set up.
#[test]
fn a_device_with_large_blocks_works_though_another_program_opened_it_first() {
    let (folder, _) = file_of(0);
    let watched = LoopDevice::watched(folder.path(), MIB as u64, 16384);
    let Some((blocks, _watcher)) = watched else { return };
    let device = FileDestination::open(&blocks.path, Access::Buffered).unwrap();
    device.write_at(37, &[1; 37]).unwrap();
    device.flush().unwrap();
    assert_eq!(content(&device)[30..80], [&[0; 7][..], &[1; 37], &[0; 6]].concat());
}

#[test]
fn a_device_tells_its_size_and_its_blocks() {
    let limits =
        |sectors, logical_block_size| DeviceLimits { size: Sectors(sectors), logical_block_size };
    let (folder, path) = file_of(1001 * 512 + 511);
    let device = FileDestination::open(&path, Access::Buffered).unwrap();
    assert_eq!(device.limits(), limits(1001, 512));
    for block_bytes in [512, 4096, 16384] {
        let Some(blocks) = LoopDevice::new(folder.path(), 1 << 20, block_bytes) else { return };
        for access in WAYS {
            let device = FileDestination::open(&blocks.path, access).unwrap();
            assert_eq!(device.limits(), limits(2048, block_bytes.into()));
            let source = FileSource::open(&blocks.path, access).unwrap();
            assert_eq!(source.limits(), limits(2048, block_bytes.into()));
            // A block device reports no holes.
            assert_eq!(source.extent(4096).unwrap(), Extent { zeroes: false, end: 1 << 20 });
        }
    }
}

/// Opens a device or file that has been closed. A program that another test is starting has copies
/// of all open files for a moment.
fn open_released(path: &Path, access: Access) -> FileDestination {
    for _ in 0..600 {
        match FileDestination::open(path, access) {
            Err(OpenError::InUse { .. }) => thread::sleep(Duration::from_millis(100)),
            opened => return opened.unwrap(),
        }
    }
    FileDestination::open(path, access).unwrap()
}

#[test]
fn a_destination_has_one_owner() {
    let (folder, path) = file_of(8192);
    let blocks = LoopDevice::new(folder.path(), 1 << 20, 512);
    for path in [Some(&path), blocks.as_ref().map(|blocks| &blocks.path)].into_iter().flatten() {
        for access in WAYS {
            let owner = open_released(path, access);
            for second in WAYS {
                let told = FileDestination::open(path, second).unwrap_err().to_string();
                assert_eq!(
                    told,
                    format!("{} is in use by another program; stop that first", path.display())
                );
            }
            // A reader needs no claim.
            FileSource::open(path, Access::Buffered).unwrap();
            drop(owner);
        }
    }
}

#[test]
fn a_destination_that_is_released_can_be_opened_again_though_it_is_still_held() {
    let (folder, path) = file_of(8192);
    let blocks = LoopDevice::new(folder.path(), 1 << 20, 512);
    for path in [Some(&path), blocks.as_ref().map(|blocks| &blocks.path)].into_iter().flatten() {
        for access in WAYS {
            let held = open_released(path, access);
            FileDestination::open(path, access).unwrap_err();
            held.release();
            let next = open_released(path, access);
            // It does not affect the claim of the next owner.
            held.release();
            drop(held);
            FileDestination::open(path, access).unwrap_err();
            drop(next);
        }
    }
}

#[test]
fn past_the_end_nothing_is_changed_and_a_file_does_not_grow() {
    for access in WAYS {
        let (_folder, path) = file_of(8192);
        let device = FileDestination::open(&path, access).unwrap();
        for (start, end) in [(4096, 8193), (8192, 8193), (8193, 9000), (u64::MAX - 1, u64::MAX)] {
            let errors = [
                device.write_at(start, &vec![1; (end - start) as usize]).unwrap_err(),
                device.zero(start..end, true).unwrap_err(),
                device.zero(start..end, false).unwrap_err(),
                device.discard(start..end).unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
        }
        device.write_at(8192, &[]).unwrap();
        device.zero(8192..8192, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0; 8192]);
    }
}

#[test]
fn direct_io_needs_a_file_of_whole_blocks() {
    let (_folder, path) = file_of(10_007);
    let error = FileDestination::open(&path, Access::Direct).unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.starts_with("it has 10007 bytes, and direct I/O writes multiples of "));
    assert!(reason.ends_with(" there; make it larger, or use the page cache"), "{reason}");
    FileDestination::open(&path, Access::Buffered).unwrap().write_at(10_006, &[1]).unwrap();
}

#[test]
fn a_full_file_system_is_told_as_it_is() {
    let Some(small) = Mounted::new("tmpfs", "size=256k") else { return };
    let path = file_in(small.path(), MIB);
    for access in WAYS {
        let device = match FileDestination::open(&path, access) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: {error}");
                continue;
            }
        };
        let error = device.write_at(0, &filling(MIB)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let error = device.zero(0..MIB as u64, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        // A hole uses no space.
        device.zero(0..MIB as u64, true).unwrap();
        assert_eq!(content(&device), vec![0; MIB]);
    }
}

#[test]
fn a_write_that_is_lost_in_the_cache_fails_all_flushes_from_then_on() {
    let Some(small) = Mounted::new("tmpfs", "size=256k") else { return };
    let Some(blocks) = LoopDevice::new(small.path(), 4 * MIB as u64, 4096) else { return };
    let device = FileDestination::open(&blocks.path, Access::Buffered).unwrap();
    device.flush().unwrap();
    device.write_at(0, &filling(4 * MIB)).unwrap();
    let first = device.flush().unwrap_err();
    assert!(first.raw_os_error().is_some(), "{first}");
    // Lost data stays lost. The device itself would not report it again.
    for _ in 0..2 {
        let later = device.flush().unwrap_err();
        assert_eq!(later.to_string(), format!("an earlier flush failed: {first}"));
    }
}

#[test]
fn after_a_flush_that_failed_no_device_is_asked_again() {
    let flushes = Flushes::default();
    flushes.run(|| Ok(())).unwrap();
    let error = flushes.run(|| Err(io::Error::from_raw_os_error(5))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    for _ in 0..2 {
        let error = flushes.run(|| unreachable!("nobody asks the device again")).unwrap_err();
        assert_eq!(error.to_string(), "an earlier flush failed: Input/output error (os error 5)");
    }
}
