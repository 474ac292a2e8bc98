//! A destination with too little room.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use clone_tests::nbd::NbdClient;

use crate::support::cloned::Cloned;

const MIB: usize = 1 << 20;

/// A file system of 2 MiB. It is unmounted when this is dropped.
struct Small(PathBuf);

impl Small {
    /// `None` if this user may not mount.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("SKIPPED: a small file system cannot be mounted; it takes root");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Nothing can be done about it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_destination_is_told_as_such_and_the_clone_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_small) = Small::mount(&folder.path().join("small")) else { return };
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
    // What is there can be read, and the rest comes from the source.
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
