//! File systems and block devices for tests. Creating them requires root; if it fails, the test
//! reports that it was skipped, and why.

use std::fs::{self, File};
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
        let made = run("losetup", &["--find", "--show", "--sector-size", &size, file]);
        or_skip(made, "loop device").map(|path| Self { path: path.into(), backing })
    }

    /// Creates one that another program has open since before it was set up: the file stands for
    /// that.
    pub(super) fn watched(
        folder: &Path,
        size_bytes: u64,
        block_bytes: u32,
    ) -> Option<(Self, File)> {
        let backing = folder.join(format!("watched-blocks-of-{block_bytes}"));
        File::create(&backing).unwrap().set_len(size_bytes).unwrap();
        let (size, file) = (block_bytes.to_string(), backing.to_str().unwrap());
        // Other tests may take the device in between.
        for _ in 0..100 {
            let path = or_skip(run("losetup", &["--find"]), "loop device")?;
            let watcher = File::open(&path).unwrap();
            if run("losetup", &["--sector-size", &size, &path, file]).is_ok() {
                return Some((Self { path: path.into(), backing }, watcher));
            }
        }
        or_skip(Err("all were taken".to_owned()), "loop device")
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["--detach", self.path.to_str().unwrap()]).unwrap();
        fs::remove_file(&self.backing).unwrap();
    }
}
