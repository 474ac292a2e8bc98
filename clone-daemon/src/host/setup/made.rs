//! Creation of a destination file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clone_core::geometry::Sectors;
use clone_core::size::human;
use clone_tools::common::output::sync_folder;
use clone_tools::common::paths::folder_of;

/// A newly created destination. It is removed on drop unless it is kept.
#[must_use]
pub(super) struct Made(Option<PathBuf>);

impl Made {
    /// Keeps the file from now on.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The original error is reported; this one would add nothing to it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Creates a sparse file of `size`.
///
/// # Errors
/// The size is too large for a file, the file exists, or it cannot be created and synced. No file
/// is left then.
pub(super) fn make_destination(path: &Path, size: Sectors) -> Result<Made> {
    let name = path.display();
    let bytes = size.to_bytes().filter(|&bytes| i64::try_from(bytes).is_ok());
    let bytes = bytes.ok_or_else(|| anyhow!("{name} would be larger than a file can be"))?;
    let file = File::create_new(path).with_context(|| format!("cannot make {name}"))?;
    let made = Made(Some(path.to_owned()));
    file.set_len(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_folder(&folder_of(path)))
        .with_context(|| format!("cannot make {name} of {}", human(size)))?;
    Ok(made)
}
