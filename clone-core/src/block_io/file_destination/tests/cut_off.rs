//! Destinations that are truncated, or deleted, while they are open.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use persistent_data::sim::seeds;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{WAYS, file_in, file_of, filling};
use crate::block_io::device::ReadData;
use crate::block_io::scratch::{LoopDevice, Mounted};
use crate::block_io::{Access, Destination, DestinationLost, Extent, FileDestination};

const SIZE: u64 = 256 << 10;
const THREADS: usize = 4;
/// Steps of each thread before the file is truncated, and again after that.
const STEPS: usize = 60;

fn set_len(path: &Path, len: u64) {
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// Runs a random operation on a file that holds only bytes other than zero. A successful read must
/// not contain a zero. Returns true if it succeeded.
fn step(device: &FileDestination, rng: &mut StdRng) -> bool {
    // Often at the end, where a write could restore the length of the file.
    let start = match rng.random_range(0..3) {
        0 => SIZE - rng.random_range(1..=9000),
        _ => rng.random_range(0..SIZE),
    };
    let len = (SIZE - start).min(rng.random_range(1..=9000));
    let done = match rng.random_range(0..8) {
        0..3 => device.write_at(start, &vec![rng.random_range(1..=255); len as usize]),
        3..7 => {
            let mut bytes = vec![0; len as usize];
            device.read_at(start, &mut bytes).inspect(|()| {
                let zero = bytes.iter().position(|&byte| byte == 0);
                assert_eq!(zero, None, "read {len} bytes from {start} on");
            })
        }
        _ => device.extent(start).map(|extent| {
            let Extent { zeroes, end } = extent;
            assert!(!zeroes, "a hole from {start} to {end}");
        }),
    };
    done.inspect_err(|error| assert!(DestinationLost::of(error).is_some(), "{error}")).is_ok()
}

/// Runs all operations of a destination.
fn ask_all(device: &FileDestination) -> Vec<io::Error> {
    let asked = [
        device.read_at(0, &mut [0; 512]),
        device.write_at(0, &[1; 512]),
        device.write_at(SIZE - 1, &[1]),
        device.zero(0..SIZE, true),
        device.zero(0..100, false),
        device.discard(0..SIZE),
        device.extent(0).map(drop),
        device.flush(),
        device.flush(),
    ];
    asked.into_iter().map(|asked| asked.expect_err("it is lost")).collect()
}

fn is_lost(error: &io::Error) -> bool {
    DestinationLost::of(error).is_some()
}

/// Truncates a file while several threads use it and make it longer again.
fn cut(path: &Path, access: Access, rng: &mut StdRng) {
    let device = FileDestination::open(path, access).unwrap();
    let data: Vec<u8> = filling(SIZE as usize);
    device.write_at(0, &data).unwrap();
    device.flush().unwrap();
    let rngs: Vec<StdRng> = (0..THREADS).map(|_| rng.fork()).collect();
    let steps = AtomicUsize::new(0);
    thread::scope(|scope| {
        for mut rng in rngs {
            let (device, steps) = (&device, &steps);
            scope.spawn(move || {
                for _ in 0..2 * STEPS {
                    step(device, &mut rng);
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let to = match rng.random_range(0..3) {
            0 => SIZE - rng.random_range(1..=9000),
            _ => rng.random_range(0..SIZE),
        };
        while steps.load(Ordering::Relaxed) < THREADS * STEPS / 2 {
            thread::yield_now();
        }
        set_len(path, to);
    });
    let has = fs::metadata(path).unwrap().len();
    assert!(has < SIZE, "a write has made it as long as it was");
    assert!(is_lost(&device.flush().unwrap_err()));
    set_len(path, SIZE);
    assert!(ask_all(&device).iter().all(is_lost));
    // Otherwise a program that another test is starting might still hold the lock of the file.
    fs::remove_file(path).unwrap();
}

#[test]
fn what_was_cut_off_a_file_is_never_read_as_zeroes_whoever_makes_it_longer() {
    let (folder, _) = file_of(0);
    let tmpfs = Mounted::new("tmpfs", "mode=0700");
    let folders = [Some(folder.path()), tmpfs.as_ref().map(Mounted::path)];
    for seed in seeds("what_was_cut_off_a_file", 25) {
        let mut rng = seed.rng();
        for folder in folders.iter().flatten() {
            for access in WAYS {
                let path = file_in(folder, SIZE as usize);
                eprintln!("{}, {access:?}", path.display());
                cut(&path, access, &mut rng);
            }
        }
    }
}

#[test]
fn the_first_to_see_that_a_file_was_cut_off_says_how_and_then_nothing_works() {
    for access in WAYS {
        type Ask = fn(&FileDestination) -> io::Result<()>;
        let first: [Ask; 4] = [
            |device| device.read_at(SIZE - 4096, &mut [0; 4096]),
            |device| device.extent(SIZE / 2 + 4096).map(drop),
            |device| device.flush(),
            |device| device.write_at(SIZE - 4096, &[1; 4096]),
        ];
        for ask in first {
            let (_folder, path) = file_of(SIZE as usize);
            let device = FileDestination::open(&path, access).unwrap();
            device.write_at(0, &filling(SIZE as usize)).unwrap();
            device.flush().unwrap();
            set_len(&path, SIZE / 2);
            let told = ask(&device).unwrap_err().to_string();
            let how = format!(
                "{} has become shorter: it had {SIZE} bytes when it was opened, and has {}; what \
                 was stored there is lost. ",
                path.display(),
                SIZE / 2
            );
            assert!(told.starts_with(&how), "{told}");
            set_len(&path, SIZE);
            for error in ask_all(&device) {
                assert_eq!(error.to_string(), told);
            }
        }
    }
}

#[test]
fn a_file_that_was_cut_off_and_written_to_before_anything_is_read_is_seen_as_such() {
    for access in WAYS {
        let (_folder, path) = file_of(SIZE as usize);
        let device = FileDestination::open(&path, access).unwrap();
        device.write_at(0, &filling(SIZE as usize)).unwrap();
        device.flush().unwrap();
        set_len(&path, 0);
        // This may succeed, and makes the file longer.
        device.write_at(SIZE - 8192, &[1; 4096]).unwrap();
        assert!(is_lost(&device.read_at(0, &mut [0; 4096]).unwrap_err()));
        assert!(ask_all(&device).iter().all(is_lost));
    }
}

#[test]
fn the_end_of_a_file_on_a_full_file_system_is_told_to_be_full() {
    let Some(small) = Mounted::new("tmpfs", "size=256k") else { return };
    let path = file_in(small.path(), 1 << 20);
    let device = FileDestination::open(&path, Access::Buffered).unwrap();
    let error = device.write_at(0, &filling(1 << 19)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let error = device.write_at((1 << 20) - 100, &[1; 100]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    device.discard(0..1 << 20).unwrap();
    device.write_at((1 << 20) - 100, &[1; 100]).unwrap();
    device.flush().unwrap();
}

#[test]
fn a_flush_of_a_file_that_was_deleted_fails_and_it_can_be_read() {
    for access in WAYS {
        let (_folder, path) = file_of(SIZE as usize);
        let device = FileDestination::open(&path, access).unwrap();
        device.write_at(0, &filling(SIZE as usize)).unwrap();
        device.flush().unwrap();
        // A rename does not matter.
        let other = path.with_extension("other");
        fs::rename(&path, &other).unwrap();
        device.flush().unwrap();
        fs::remove_file(&other).unwrap();
        let told = device.flush().unwrap_err().to_string();
        assert!(told.contains("has been deleted: what is in it is gone when"), "{told}");
        let mut bytes = vec![0; SIZE as usize];
        device.read_at(0, &mut bytes).unwrap();
        assert!(bytes == filling(SIZE as usize));
    }
}

#[test]
fn a_block_device_that_becomes_smaller_is_lost_also_if_it_grows_again() {
    let (folder, _) = file_of(0);
    for access in WAYS {
        type Ask = fn(&FileDestination) -> io::Result<()>;
        let first: [Ask; 4] = [
            |device| device.read_at(SIZE - 4096, &mut [0; 4096]),
            |device| device.write_at(SIZE - 4096, &[1; 4096]),
            |device| device.zero(SIZE - 8192..SIZE, true),
            |device| device.flush(),
        ];
        for ask in first {
            let Some(blocks) = LoopDevice::new(folder.path(), SIZE, 512) else { return };
            let resize = |len| {
                set_len(&blocks.backing, len);
                let resized = Command::new("losetup").arg("-c").arg(&blocks.path).status();
                assert!(resized.unwrap().success());
            };
            let device = FileDestination::open(&blocks.path, access).unwrap();
            device.write_at(0, &filling(SIZE as usize)).unwrap();
            device.flush().unwrap();
            resize(SIZE / 2);
            let error = ask(&device).unwrap_err();
            assert!(is_lost(&error), "{error}");
            resize(SIZE);
            assert!(ask_all(&device).iter().all(is_lost));
        }
    }
}
