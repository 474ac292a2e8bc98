//! Clones exported as files, under loop devices, with file systems on them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use clone_core::geometry::Sectors;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::mount::UnmountFlags;

use super::{can_mount, export, hydrate, unmount};
use crate::support::{Rig, program, skipped, volume};

const PROGRAMS: [&str; 6] = ["losetup", "mount", "mkfs.ext4", "e2fsck", "fstrim", "timeout"];

/// Returns whether loop devices and file systems on them can be used; reports it if not.
fn can_loop() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !can {
        skipped("there are no loop devices here, or this is not root");
    }
    can && can_mount() && PROGRAMS.iter().all(|name| program(name).is_some())
}

/// Runs a program for at most ten minutes.
fn output(words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", path + ":/usr/sbin:/sbin").args(["-k", "5", "600"]).args(words);
    command.output().unwrap()
}

/// Runs a program that must succeed, and returns its output.
fn run(words: &[&str]) -> String {
    let output = output(words);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{words:?}: {}: {said}", output.status);
    said
}

/// A loop device, which is removed at the end.
struct Loop(String);

impl Loop {
    fn on(file: &Path, direct: bool) -> Self {
        let direct = format!("--direct-io={}", if direct { "on" } else { "off" });
        let file = file.to_str().unwrap();
        // Another process may take the free device first.
        for _ in 0..600 {
            let output = output(&["losetup", "--find", "--show", &direct, file]);
            if output.status.success() {
                let device = Self(String::from_utf8(output.stdout).unwrap().trim().into());
                let dio = run(&["losetup", "--noheadings", "--output", "DIO", &device.0]);
                assert_eq!(dio.trim() == "1", direct == "--direct-io=on");
                return device;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("no loop device for {file}");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        output(&["losetup", "--detach", &self.0]);
    }
}

/// A mounted file system, which is unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn on(device: &Loop, rig: &Rig) -> Self {
        let point = rig.path("mnt");
        fs::create_dir_all(&point).unwrap();
        run(&["mount", "-t", "ext4", &device.0, point.to_str().unwrap()]);
        Self(point)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Unmounts the file system, so that all of it has been written.
    ///
    /// A program that another test is just starting may have a file of it open for a moment.
    fn end(self) {
        for _ in 0..600 {
            if output(&["umount", self.path()]).status.success() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        run(&["umount", self.path()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Only a failed test still has it mounted.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn check(device: &Loop) {
    run(&["e2fsck", "-fn", &device.0]);
}

/// Returns contents that identify their file.
fn content(file: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(file as u64).fill_bytes(&mut bytes);
    bytes
}

#[test]
fn a_file_system_is_made_on_a_clone_under_a_loop_device_and_is_sound() {
    if !can_loop() {
        return;
    }
    for direct in [true, false] {
        // The source has other contents, which must not show through.
        let rig = Rig::new(Sectors(8), &content(0, 64 << 20));
        let clone = rig.start(false);
        let mut export = export(&rig.path("there"), &volume(&rig, "disk", &clone));
        let device = Loop::on(export.path(), direct);
        run(&["mkfs.ext4", "-q", "-F", "-b", "4096", &device.0]);
        assert_eq!(clone.progress().fetched_bytes, 0, "it discards first");
        let mounted = Mounted::on(&device, &rig);
        for file in 1..20 {
            let path = mounted.0.join(file.to_string());
            fs::write(path, content(file, file * 50_000)).unwrap();
        }
        for file in (1..20).step_by(3) {
            fs::remove_file(mounted.0.join(file.to_string())).unwrap();
        }
        run(&["fstrim", mounted.path()]);
        mounted.end();
        check(&device);
        hydrate(&clone);
        check(&device);
        let mounted = Mounted::on(&device, &rig);
        for file in (1..20).filter(|file| file % 3 != 1) {
            let path = mounted.0.join(file.to_string());
            assert!(fs::read(path).unwrap() == content(file, file * 50_000), "{file}");
        }
        mounted.end();
        drop(device);
        unmount(&mut export);
        clone.stop();
    }
}

/// Returns an image of a file system of 200 MiB with 30 files of 2 MiB each, and the number of
/// files.
fn image(folder: &Path) -> (Vec<u8>, usize) {
    const FILES: usize = 30;
    let tree = folder.join("tree");
    fs::create_dir(&tree).unwrap();
    for file in 0..FILES {
        fs::write(tree.join(file.to_string()), content(file, 2 << 20)).unwrap();
    }
    let image = folder.join("image");
    File::create(&image).unwrap().set_len(200 << 20).unwrap();
    let (image, tree) = (image.to_str().unwrap(), tree.to_str().unwrap());
    run(&["mkfs.ext4", "-q", "-F", "-b", "4096", "-d", tree, image]);
    (fs::read(image).unwrap(), FILES)
}

/// The examples of the kernel's dm-clone.rst, "Examples".
#[test]
fn a_file_system_is_cloned_while_it_is_used_and_what_it_does_not_use_is_not_copied() {
    if !can_loop() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, files) = image(folder.path());
    let rig = Rig::new(Sectors(8), &source);
    let clone = rig.start(false);
    let mut export = export(&rig.path("there"), &volume(&rig, "disk", &clone));
    let device = Loop::on(export.path(), true);
    let mounted = Mounted::on(&device, &rig);

    let before = clone.progress();
    run(&["fstrim", mounted.path()]);
    let after = clone.progress();
    let trimmed = after.hydrated - before.hydrated;
    assert!(trimmed * 4096 > 100 << 20, "{trimmed} regions");
    assert_eq!(after.fetched_bytes, before.fetched_bytes);
    assert_eq!(after.copied_bytes, before.copied_bytes);

    clone.command(clone_core::engine::Command::Kernel(
        clone_core::dm_target::Message::EnableHydration,
    ));
    for file in (0..files).step_by(5) {
        let mut opened = File::options().append(true).open(mounted.0.join(file.to_string()));
        opened.as_mut().unwrap().write_all(b"more").unwrap();
        fs::write(mounted.0.join(format!("new-{file}")), content(files + file, 1 << 20)).unwrap();
    }
    hydrate(&clone);
    mounted.end();
    drop(device);
    unmount(&mut export);
    let progress = clone.progress();
    assert_eq!(progress.hydrated, 200 << 8);
    assert!(progress.fetched_bytes < 100 << 20, "{progress:?}");
    clone.stop();

    let device = Loop::on(&rig.path("destination"), false);
    check(&device);
    let mounted = Mounted::on(&device, &rig);
    for file in 0..files {
        let mut expected = content(file, 2 << 20);
        if file % 5 == 0 {
            expected.extend(b"more");
            let new = fs::read(mounted.0.join(format!("new-{file}"))).unwrap();
            assert!(new == content(files + file, 1 << 20), "new-{file}");
        }
        let found = fs::read(mounted.0.join(file.to_string())).unwrap();
        assert!(found == expected, "{file}");
    }
    mounted.end();
}
