//! Clones exported as files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clone_core::dm_target;
use clone_core::driver::RunningClone;
use clone_core::engine::Command as Message;
use clone_core::geometry::Sectors;
use clone_daemon::export::fuse::{Export, FuseError, Options};
use clone_daemon::export::stats::Kind;
use clone_daemon::export::volume::Volume;
use persistent_data::device::FileDevice;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::support::{Rig, program, skipped, volume};

mod on_loop;

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE;

/// Returns whether FUSE file systems can be mounted; reports it if not.
pub(crate) fn can_mount() -> bool {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let can = device.is_ok() && program("fusermount3").is_some();
    if !can {
        skipped("FUSE file systems cannot be mounted here");
    }
    can
}

fn export(path: &Path, volume: &Arc<Volume>) -> Export {
    Export::mount(path, volume.clone(), Options::default()).unwrap()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    bytes
}

/// Hydrates the whole clone, and waits for the end.
fn hydrate(clone: &RunningClone<FileDevice>) {
    clone.command(Message::Kernel(dm_target::Message::EnableHydration));
    let size = clone.client().size_bytes();
    clone.client().hydrate(0..size).unwrap();
}

/// Applies a random operation within `within` to the file and the model, and compares reads.
fn act(file: &File, model: &mut [u8], within: std::ops::Range<usize>, random: &mut StdRng) {
    let start = random.random_range(within.clone());
    let end = random.random_range(start..=within.end.min(start + 70_000));
    let (offset, len) = (start as u64, (end - start) as u64);
    match random.random_range(0..8) {
        0..3 => {
            let mut bytes = vec![0; end - start];
            file.read_exact_at(&mut bytes, offset).unwrap();
            assert!(bytes == model[start..end], "{start}..{end}");
        }
        3..6 => {
            random.fill_bytes(&mut model[start..end]);
            file.write_all_at(&model[start..end], offset).unwrap();
        }
        6 if len > 0 => {
            let how = if random.random() { PUNCH } else { ZERO };
            rustix::fs::fallocate(file, how, offset, len).unwrap();
            model[start..end].fill(0);
        }
        _ => file.sync_data().unwrap(),
    }
}

#[test]
fn a_clone_on_a_file_and_one_in_a_folder_are_what_was_written_before_and_after_hydration() {
    if !can_mount() {
        return;
    }
    for in_folder in [false, true] {
        let mut model = random_bytes(1 << 20);
        let rig = Rig::new(Sectors(8), &model);
        let clone = rig.start(false);
        let disk = volume(&rig, "disk", &clone);
        let path = rig.path("there");
        if in_folder {
            fs::create_dir(&path).unwrap();
        }
        let mut export = export(&path, &disk);
        if in_folder {
            assert_eq!(export.path(), path.join("disk"));
            let names: Vec<_> = fs::read_dir(&path).unwrap().map(|found| found.unwrap()).collect();
            assert_eq!(names.len(), 1);
            assert_eq!(names[0].file_name(), "disk");
            assert!(!path.join("other").exists());
            assert!(File::create(path.join("other")).is_err());
        } else {
            assert_eq!(export.path(), path);
        }
        assert_eq!(fs::metadata(export.path()).unwrap().len(), 1 << 20);
        assert_eq!(fs::read(export.path()).unwrap(), model);
        let file = open(export.path());
        let mut random = StdRng::seed_from_u64(1);
        for step in 0..600 {
            if step == 300 {
                hydrate(&clone);
            }
            act(&file, &mut model, 0..1 << 20, &mut random);
        }
        assert!(fs::read(export.path()).unwrap() == model);
        drop(file);
        unmount(&mut export);
        clone.stop();
        assert!(rig.destination() == model);
        assert_eq!(path.exists(), in_folder);
    }
}

/// Unmounts an export that is about to be unused. A loop device closes its file with a delay, and
/// a program that another test is starting has this process's files open for a moment, until exec.
fn unmount(export: &mut Export) {
    for _ in 0..30_000 {
        match export.unmount() {
            Err(FuseError::Busy(_)) => thread::sleep(Duration::from_millis(10)),
            unmounted => return unmounted.unwrap(),
        }
    }
    panic!("{} stays in use", export.path().display());
}

#[test]
fn threads_that_use_a_file_while_it_hydrates_do_not_disturb_each_other() {
    if !can_mount() {
        return;
    }
    const EACH: usize = 1 << 20;
    let mut model = random_bytes(8 * EACH);
    let rig = Rig::new(Sectors(128), &model);
    let clone = rig.start(true);
    let export = export(&rig.path("there"), &volume(&rig, "disk", &clone));
    thread::scope(|scope| {
        for (at, part) in model.chunks_mut(EACH).enumerate() {
            let export = &export;
            scope.spawn(move || {
                let file = open(export.path());
                let mut random = StdRng::seed_from_u64(at as u64);
                let mut mine = vec![0; 8 * EACH];
                let within = at * EACH..(at + 1) * EACH;
                mine[within.clone()].copy_from_slice(part);
                for _ in 0..200 {
                    act(&file, &mut mine, within.clone(), &mut random);
                }
                part.copy_from_slice(&mine[within]);
            });
        }
    });
    assert!(fs::read(export.path()).unwrap() == model);
    hydrate(&clone);
    drop(export);
    clone.stop();
    assert!(rig.destination() == model);
}

#[test]
fn at_the_end_reads_are_short_and_writes_find_no_room_and_the_size_stays() {
    if !can_mount() {
        return;
    }
    let size = 60 * 512;
    let rig = Rig::new(Sectors(8), &vec![7; size]);
    let clone = rig.start(false);
    let export = export(&rig.path("there"), &volume(&rig, "disk", &clone));
    let file = open(export.path());
    let mut bytes = [0; 100];
    let end = size as u64;
    assert_eq!(file.read_at(&mut bytes, end - 30).unwrap(), 30);
    assert_eq!(file.read_at(&mut bytes, end).unwrap(), 0);
    assert_eq!(file.read_at(&mut bytes, 1 << 40).unwrap(), 0);
    assert_eq!(file.write_at(&[1; 100], end - 30).unwrap(), 30);
    for offset in [end, 1 << 40] {
        assert_eq!(file.write_at(&[1], offset).unwrap_err().kind(), ErrorKind::StorageFull);
    }
    let appending = OpenOptions::new().append(true).open(export.path()).unwrap();
    let error = io::Write::write(&mut &appending, &[1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    file.set_len(end).unwrap();
    for len in [0, end - 1, end + 1] {
        assert_eq!(file.set_len(len).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    assert!(File::create(export.path()).is_err());
    assert_eq!(file.metadata().unwrap().len(), end);
    assert_eq!(fs::read(export.path()).unwrap(), [vec![7; size - 30], vec![1; 30]].concat());
    let room = rustix::fs::statvfs(export.path()).unwrap();
    assert_eq!((room.f_bsize, room.f_blocks, room.f_bfree), (4096, 8, 0));
}

#[test]
fn each_form_of_fallocate_does_what_it_says_or_says_that_it_does_not() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new(Sectors(8), &[7; 16 << 12]);
    let clone = rig.start(false);
    let disk = volume(&rig, "disk", &clone);
    let export = export(&rig.path("there"), &disk);
    let file = open(export.path());
    let end = 16 << 12;
    let keep = FallocateFlags::KEEP_SIZE;
    let fallocate = |how, offset, len| rustix::fs::fallocate(&file, how, offset, len);
    for (how, offset, len, expected) in [
        (FallocateFlags::empty(), 0, end, Ok(())),
        (keep, 100, 5000, Ok(())),
        (FallocateFlags::empty(), end - 1, 2, Err(Errno::NOSPC)),
        (keep, end, 1, Err(Errno::NOSPC)),
        (ZERO, end - 1, 2, Err(Errno::NOSPC)),
        (FallocateFlags::COLLAPSE_RANGE, 0, 4096, Err(Errno::OPNOTSUPP)),
        (FallocateFlags::INSERT_RANGE, 0, 4096, Err(Errno::OPNOTSUPP)),
        (FallocateFlags::UNSHARE_RANGE, 0, 4096, Err(Errno::OPNOTSUPP)),
    ] {
        assert_eq!(fallocate(how, offset, len), expected, "{how:?} {offset} {len}");
    }
    assert_eq!(fs::read(export.path()).unwrap(), [7; 16 << 12]);

    fallocate(PUNCH, 2 << 12, 2 << 12).unwrap();
    fallocate(ZERO, 5 << 12, 1 << 12).unwrap();
    fallocate(ZERO | keep, 10, 20).unwrap();
    fallocate(PUNCH, end - 3, 10).unwrap();
    fallocate(PUNCH, end + 3, 10).unwrap();
    let mut expected = vec![7; 16 << 12];
    for range in [2 << 12..4 << 12, 5 << 12..6 << 12, 10..30, (16 << 12) - 3..16 << 12] {
        expected[range].fill(0);
    }
    assert!(fs::read(export.path()).unwrap() == expected);
    // Only regions that were covered in part had to be copied.
    assert_eq!(clone.progress().hydrated, 5);
    assert_eq!(clone.progress().fetched_bytes, 2 << 12);
    let zeroed = disk.stats().counts(Kind::WriteZeroes, false);
    assert_eq!(zeroed.bytes.load(std::sync::atomic::Ordering::Relaxed), (3 << 12) + 23);
}

#[test]
fn holes_are_where_the_source_or_the_destination_knows_of_zeroes() {
    if !can_mount() {
        return;
    }
    const MIB: u64 = 1 << 20;
    let rig = Rig::new(Sectors(8), &vec![7; 4 << 20]);
    let source = OpenOptions::new().write(true).open(rig.path("source")).unwrap();
    rustix::fs::fallocate(&source, PUNCH, MIB, MIB).unwrap();
    let clone = rig.start(false);
    let export = export(&rig.path("there"), &volume(&rig, "disk", &clone));
    let file = open(export.path());
    let seek = |to| rustix::fs::seek(&file, to);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(5)), Ok(MIB));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(MIB + 5)), Ok(MIB + 5));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(MIB + 5)), Ok(2 * MIB));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(2 * MIB)), Ok(4 * MIB));
    // The old contents of the destination in the hole of the source do not matter.
    file.write_all_at(&[1; 4096], MIB + 8192).unwrap();
    assert_eq!(seek(rustix::fs::SeekFrom::Data(MIB)), Ok(MIB + 8192));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(MIB + 8192)), Ok(MIB + 12288));
    rustix::fs::fallocate(&file, PUNCH, 3 * MIB, MIB).unwrap();
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(2 * MIB)), Ok(3 * MIB));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(3 * MIB)), Err(Errno::NXIO));
    for to in [rustix::fs::SeekFrom::Data(4 * MIB), rustix::fs::SeekFrom::Hole(4 * MIB)] {
        assert_eq!(seek(to), Err(Errno::NXIO));
    }
    assert_eq!(io::Seek::seek(&mut &file, SeekFrom::End(0)).unwrap(), 4 * MIB);
}

#[test]
fn a_file_that_is_opened_for_durable_writes_has_them() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new(Sectors(8), &[7; 64 << 10]);
    let clone = rig.start(false);
    let disk = volume(&rig, "disk", &clone);
    let export = export(&rig.path("there"), &disk);
    let mut options = OpenOptions::new();
    let file = options.write(true).custom_flags(libc::O_DSYNC).open(export.path()).unwrap();
    for region in 0..3 {
        let before = clone.progress().commits;
        file.write_all_at(&[1; 4096], region * 4096).unwrap();
        assert!(clone.progress().commits > before);
    }
    let flushes = || {
        let counts = disk.stats().counts(Kind::Flush, true);
        counts.classes.iter().map(|class| class.load(std::sync::atomic::Ordering::Relaxed)).sum()
    };
    let before: u64 = flushes();
    file.sync_all().unwrap();
    assert_eq!(flushes(), before + 1);
    drop(file);
    assert_eq!(flushes(), before + 2);
    drop(File::open(export.path()).unwrap());
    assert_eq!(flushes(), before + 2);
}

#[test]
fn what_goes_wrong_is_said_to_whoever_asked_for_it() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new(Sectors(8), &[7; 64 << 10]);
    let clone = rig.start(false);
    let export = export(&rig.path("there"), &volume(&rig, "disk", &clone));
    let file = open(export.path());
    file.write_all_at(&[1; 4096], 0).unwrap();
    clone.stop();
    let mut bytes = [0; 10];
    let failures = [
        file.read_exact_at(&mut bytes, 0),
        file.read_exact_at(&mut bytes, 8192),
        file.write_all_at(&bytes, 0),
        file.write_all_at(&bytes, 8192),
        file.sync_all(),
        file.sync_data(),
        rustix::fs::fallocate(&file, PUNCH, 0, 4096).map_err(io::Error::from),
    ];
    for (at, failure) in failures.into_iter().enumerate() {
        assert_eq!(failure.unwrap_err().raw_os_error(), Some(libc::EIO), "{at}");
    }
}

#[test]
fn a_file_that_is_in_use_stays_or_outlives_its_path() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new(Sectors(8), &[7; 64 << 10]);
    let clone = rig.start(false);
    let disk = volume(&rig, "disk", &clone);
    let path = rig.path("there");
    File::create(&path).unwrap();
    let mut export = export(&path, &disk);
    let file = open(&path);
    let error = export.unmount().unwrap_err();
    assert!(matches!(error, FuseError::Busy(_)), "{error}");
    assert!(error.to_string().contains("there is in use"), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 64 << 10);
    drop(export);
    // The file existed before, so it still exists.
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [7; 10]);
    drop(file);

    let mut export = self::export(&path, &disk);
    drop(open(&path));
    unmount(&mut export);
    unmount(&mut export);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn what_is_in_the_way_is_neither_hidden_nor_touched() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new(Sectors(8), &[7; 64 << 10]);
    let clone = rig.start(false);
    let disk = volume(&rig, "disk", &clone);
    let refused = |path: &Path, volume: &Arc<Volume>| {
        Export::mount(path, volume.clone(), Options::default()).err().unwrap()
    };
    let error = refused(&rig.path("source"), &disk);
    assert!(matches!(error, FuseError::NotEmpty(_)), "{error}");
    let error = refused(Path::new("/dev/null"), &disk);
    assert!(matches!(error, FuseError::Kind(_)), "{error}");
    let error = refused(&rig.path("missing/there"), &disk);
    assert!(matches!(error, FuseError::Path { .. }), "{error}");
    for name in ["", ".", "..", "a/b", &"x".repeat(256)] {
        let error = refused(rig.folder.path(), &volume(&rig, name, &clone));
        assert!(matches!(error, FuseError::Name(_)), "{error}");
    }
    let mut export = export(&rig.path("there"), &disk);
    // Another program unmounts the file system, and puts a file there.
    let status = Command::new("fusermount3").arg("-u").arg(export.path()).status();
    assert!(status.unwrap().success());
    fs::write(rig.path("there"), "mine").unwrap();
    while export.is_mounted() {
        thread::yield_now();
    }
    unmount(&mut export);
    assert_eq!(fs::read(rig.path("there")).unwrap(), b"mine");
    let before: Vec<_> = fs::read_dir(rig.folder.path()).unwrap().collect();
    assert_eq!(before.len(), 4);
}

/// Mounts a file system that no process serves.
fn mount_dead(path: &Path) {
    let (socket, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new("fusermount3");
    command.arg("--").arg(path).env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(theirs));
    assert!(command.status().unwrap().success());
    drop((socket, command));
    assert_eq!(fs::metadata(path).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
}

#[test]
fn what_is_left_of_an_export_whose_process_died_makes_room_for_the_next() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new(Sectors(8), &[7; 64 << 10]);
    let clone = rig.start(false);
    let disk = volume(&rig, "disk", &clone);
    for is_file in [true, false] {
        let path = rig.path(if is_file { "file" } else { "folder" });
        if is_file {
            File::create(&path).unwrap();
        } else {
            fs::create_dir(&path).unwrap();
        }
        mount_dead(&path);
        let mut export = export(&path, &disk);
        assert_eq!(fs::read(export.path()).unwrap(), [7; 64 << 10]);
        unmount(&mut export);
        assert_eq!(fs::metadata(&path).unwrap().is_file(), is_file);
    }
}
