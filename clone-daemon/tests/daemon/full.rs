//! Destinations without enough space.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use clone_tests::nbd::NbdClient;

use crate::support::cloned::{Cloned, cloned};
use crate::support::skipped;

const MIB: usize = 1 << 20;

/// A small file system. It is unmounted on drop.
pub(crate) struct Small(PathBuf);

impl Small {
    /// Mounts one of this many MiB. Returns `None` if this user may not mount.
    pub(crate) fn mount(at: &Path, mib: usize) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(at);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        skipped("a small file system cannot be mounted; it takes root");
        None
    }
}

impl Small {
    /// Enlarges the file system.
    fn grow(&self, mib: usize) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={mib}m")]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A failure cannot be handled here.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_destination_is_told_as_such_and_the_clone_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_small) = Small::mount(&folder.path().join("small"), 2) else { return };
    fs::write(folder.path().join("source"), vec![7; 4 * MIB]).unwrap();
    let ballast = folder.path().join("small/ballast");
    fs::write(&ballast, vec![1; MIB]).unwrap();
    File::create(folder.path().join("small/disk")).unwrap().set_len(4 * MIB as u64).unwrap();
    let arguments = [
        "run",
        "-m",
        "metadata",
        "-d",
        "small/disk",
        "-s",
        "source",
        "--no-hydration",
        "--nbd",
        "unix:socket",
        "--control",
        "none",
    ];
    let daemon = Cloned::start(folder.path(), &arguments);
    let mut client = NbdClient::connect(&folder.path().join("socket"), "disk").unwrap();
    let mut written = 0;
    let full = loop {
        match client.write(written as u64, &[9; 64 << 10], false) {
            Ok(()) => written += 64 << 10,
            Err(error) => break error,
        }
        assert!(written < 4 * MIB, "all of it was written");
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    // Written data can be read, and the rest comes from the source.
    let mut bytes = vec![0; 4 * MIB];
    client.read(0, &mut bytes).unwrap();
    assert!(
        bytes[..written] == vec![9; written]
            && bytes[written + (64 << 10)..].iter().all(|b| *b == 7)
    );
    client.flush().unwrap();
    fs::remove_file(&ballast).unwrap();
    client.write(written as u64, &[8; 64 << 10], true).unwrap();
    drop(client);
    assert!(daemon.stop().success());
}

#[test]
fn a_destination_that_fills_the_file_system_of_its_metadata_keeps_no_commit_from_its_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&folder.path().join("small"), 8) else { return };
    let source = folder.path().join("source");
    fs::write(&source, vec![7; 16 * MIB]).unwrap();
    // The metadata is large, and only its first blocks are written at creation.
    File::options().write(true).open(&source).unwrap().set_len(4 << 30).unwrap();
    let arguments = [
        "run",
        "-m",
        "small/metadata",
        "-d",
        "small/disk",
        "-s",
        "source",
        "--nbd",
        "unix:socket",
        "--control",
        "none",
    ];
    let mut daemon = Cloned::start(folder.path(), &arguments);
    daemon.wait_for("hydration stopped");
    let mut client = NbdClient::connect(&folder.path().join("socket"), "disk").unwrap();
    client.flush().unwrap();
    // Writes are possible, and durable.
    client.write(0, &[9; 4096], true).unwrap();
    drop(client);
    assert!(daemon.stop().success(), "all is committed");

    small.grow(64);
    let mut daemon = Cloned::start(folder.path(), &arguments);
    daemon.wait_for("hydration finished");
    let mut client = NbdClient::connect(&folder.path().join("socket"), "disk").unwrap();
    let mut bytes = vec![0; 16 * MIB];
    client.read(0, &mut bytes).unwrap();
    assert!(bytes[..4096] == [9; 4096] && bytes[4096..].iter().all(|&byte| byte == 7));
    drop(client);
    assert!(daemon.stop().success());
}

#[test]
fn metadata_for_which_there_is_no_room_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_small) = Small::mount(&folder.path().join("small"), 1) else { return };
    File::create(folder.path().join("source")).unwrap().set_len(64 << 30).unwrap();
    let arguments =
        ["run", "-m", "small/metadata", "-d", "disk", "-s", "source", "--control", "none"];
    let refused = cloned(folder.path(), &arguments).output().unwrap();
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("no room for small/metadata: it needs "), "{told}");
    assert!(told.contains(" bytes are missing on its file system; free them, or"), "{told}");
    let left = |folder: &Path| fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name());
    assert_eq!(left(&folder.path().join("small")).count(), 0);
    let mut names: Vec<_> = left(folder.path()).collect();
    names.sort();
    assert_eq!(names, ["small", "source"]);
}
