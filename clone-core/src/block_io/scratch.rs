//! File systems and block devices for tests. Creating them requires root; if it fails, the test
//! reports that it was skipped, and why.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Runs a program. Returns its output, or the reason why it failed.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn or_skip<T>(made: Result<T, String>, what: &str) -> Option<T> {
    made.inspect_err(|error| eprintln!("skipped: no {what} to test with: {error}")).ok()
}

/// An in-memory file system, which is unmounted on drop.
#[derive(Debug)]
pub(super) struct Mounted(TempDir);

impl Mounted {
    /// Mounts a file system of the kind `kind`, `tmpfs` or `ramfs`.
    pub(super) fn new(kind: &str, options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let mounted = run("mount", &["-t", kind, "-o", options, "none", path]);
        or_skip(mounted.map(|_| ()), kind).map(|()| Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a loop device releases its file a moment later.
        run("umount", &["--lazy", self.0.path().to_str().unwrap()]).unwrap();
    }
}

/// A loop device backed by a file; both are removed on drop.
#[derive(Debug)]
pub(super) struct LoopDevice {
    pub(super) path: PathBuf,
    pub(super) backing: PathBuf,
}

impl LoopDevice {
    /// Creates a device of `size_bytes` zeroes with blocks of `block_bytes`. Its file is in
    /// `folder`.
    pub(super) fn new(folder: &Path, size_bytes: u64, block_bytes: u32) -> Option<Self> {
        let backing = folder.join(format!("blocks-of-{block_bytes}"));
        File::create(&backing).unwrap().set_len(size_bytes).unwrap();
        let size = block_bytes.to_string();
        let file = backing.to_str().unwrap();
        // The kernel takes over the size of blocks when a device is opened first. If another program
        // looked at it while it was set up, the page cache reads blocks that are too small.
        for _ in 0..100 {
            let made = run("losetup", &["--find", "--show", "--sector-size", &size, file]);
            let path: PathBuf = or_skip(made, "loop device")?.into();
            match File::open(&path).and_then(|mut device| device.read_exact(&mut [0])) {
                Ok(()) => return Some(Self { path, backing }),
                Err(error) => eprintln!("{} is made again: {error}", path.display()),
            }
            detach(&path);
        }
        panic!("no loop device with blocks of {block_bytes} can be read");
    }
}

fn detach(device: &Path) {
    run("losetup", &["--detach", device.to_str().unwrap()]).unwrap();
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        detach(&self.path);
        fs::remove_file(&self.backing).unwrap();
    }
}
