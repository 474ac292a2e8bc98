//! Checks the file that a trace is written to at the end.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clone_tools::common::paths::folder_of;
use clone_tools::common::paths::is_one_path;
use rustix::fs::{Access, access};

use crate::config::clone_spec::CloneSpec;
use crate::source::SourceSpec;

/// Fails if a trace cannot be written to `path`, as far as this can be checked without changing
/// anything. Without this check the error would appear at the end, when everything has been
/// recorded.
pub(super) fn check(path: &Path, spec: &CloneSpec) -> Result<()> {
    let name = path.display();
    let source = match &spec.source {
        SourceSpec::Path(path) => Some(path),
        _ => None,
    };
    for device in [&spec.metadata, &spec.destination].into_iter().chain(source) {
        if is_one_path(path, device) {
            bail!("cannot record to {name}: it is a device of the clone; give another file");
        }
    }
    let path = match fs::metadata(path) {
        Ok(there) if !there.is_file() => {
            bail!("cannot record to {name}: it is not a regular file")
        }
        Ok(_) => path.canonicalize().with_context(|| format!("cannot record to {name}"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("cannot record to {name}")),
    };
    let folder = folder_of(&path);
    let place = folder.display();
    if !folder.is_dir() {
        bail!("cannot record to {name}: there is no directory {place}");
    }
    // The trace is written to a new file, which then replaces the old one.
    access(&folder, Access::WRITE_OK | Access::EXEC_OK)
        .with_context(|| format!("cannot record to {name}: cannot create a file in {place}"))
}
