//! Paths as they are given: `-` for stdin and stdout, and two names of one file.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Returns the name of a document for messages.
pub fn document_name(path: &Path) -> String {
    if is_dash(path) { "stdin".to_owned() } else { path.display().to_string() }
}

/// Returns the folder of the file that `path` names.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// True if a path stands for stdin or stdout.
pub fn is_dash(path: &Path) -> bool {
    path == Path::new("-")
}

/// Refuses to write to the file that is being read, even under another name.
///
/// # Errors
/// Both paths lead to the same file or block device.
pub fn check_distinct(input: &Path, output: &Path) -> Result<()> {
    let input_path = if is_dash(input) { Path::new("/dev/stdin") } else { input };
    if are_same(input_path, output) {
        bail!(
            "{} and {} are the same: it would be overwritten while it is read; give another output",
            document_name(input),
            output.display()
        );
    }
    Ok(())
}

/// Refuses one device in two roles of a clone. `source` is `None` if it is remote.
///
/// # Errors
/// Two of the paths lead to the same file or block device, or would if it were created.
pub fn check_devices_distinct(
    metadata: &Path,
    destination: &Path,
    source: Option<&Path>,
) -> Result<()> {
    let mut pairs = vec![(metadata, destination)];
    if let Some(source) = source {
        pairs.extend([(metadata, source), (destination, source)]);
    }
    for (a, b) in pairs {
        if is_one_path(a, b) {
            bail!(
                "{} and {} are the same: the metadata, the destination and the source of a clone \
                 are three devices",
                a.display(),
                b.display()
            );
        }
    }
    Ok(())
}

/// Returns whether two paths name the same file, or would if it were created.
pub fn is_one_path(a: &Path, b: &Path) -> bool {
    let would_be = || {
        let folder = |path| folder_of(path).canonicalize().ok();
        a.file_name() == b.file_name() && folder(a).is_some_and(|of_a| folder(b) == Some(of_a))
    };
    a == b || are_same(a, b) || would_be()
}

/// Returns whether two paths lead to the same regular file or block device.
pub(crate) fn are_same(a: &Path, b: &Path) -> bool {
    let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) else { return false };
    if a.file_type().is_block_device() && b.file_type().is_block_device() {
        return a.rdev() == b.rdev();
    }
    // Terminals, /dev/null and the like are not overwritten.
    a.is_file() && b.is_file() && a.dev() == b.dev() && a.ino() == b.ino()
}
