//! Metadata that a program opens, and the errors that this can give.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clone_core::metadata::check::{Report, read};
use clone_core::metadata::damage::Damage;
use clone_core::metadata::live::read_live;
use clone_core::metadata::superblock::SuperblockError;
use clone_core::metadata::{Metadata, MetadataError};
use clone_core::progress::Progress;
use persistent_data::BLOCK_SIZE;
use persistent_data::device::{FileDevice, OpenError, ReadOnly};

use crate::common::text_form::{TextForm, text_form};

/// Opens metadata for reading: exclusively, or with `live` while a clone uses it.
///
/// # Errors
/// The file is clearly not metadata (XML, JSON, empty, or shorter than a superblock), or an
/// [`OpenError`]. The message names a way out.
pub fn open_metadata(path: &Path, live: bool) -> Result<FileDevice<ReadOnly>> {
    if live {
        check_looks_like_metadata(path)?;
        return Ok(FileDevice::open_live(path)?);
    }
    claim_metadata(path).map_err(|error| match error.downcast_ref() {
        Some(OpenError::InUse { .. }) => {
            anyhow!("{error}, or read it while it is in use with --live")
        }
        _ => error,
    })
}

/// Opens metadata for reading, exclusively, for tools that have no `--live`.
///
/// # Errors
/// As for [`open_metadata`].
pub fn claim_metadata(path: &Path) -> Result<FileDevice<ReadOnly>> {
    check_looks_like_metadata(path)?;
    Ok(FileDevice::open_read(path)?)
}

/// Reads metadata, damaged or not.
///
/// # Errors
/// As for [`open_metadata`], and with `live` if the metadata changed during every attempt to read
/// it.
pub fn read_metadata(path: &Path, live: bool, progress: &dyn Progress) -> Result<Report> {
    let device = open_metadata(path, live)?;
    let report = if live { read_live(&device, progress) } else { Ok(read(&device, progress)) };
    report.with_context(|| format!("cannot read {} live", path.display()))
}

/// Opens metadata for changes in place.
///
/// # Errors
/// As for [`open_metadata`].
pub fn open_metadata_to_change(path: &Path) -> Result<FileDevice> {
    check_looks_like_metadata(path)?;
    Ok(FileDevice::open_write(path)?)
}

/// Checks the metadata of an existing clone and opens it.
///
/// # Errors
/// The metadata is damaged or cannot be read. Nothing has been written then. The message names a
/// way out.
pub fn open_clone(device: FileDevice, path: &Path) -> Result<Metadata<FileDevice>> {
    let name = path.display();
    Metadata::open(device).map_err(|error| match &error {
        MetadataError::Damaged(report) => {
            let way_out = match report.damage.first() {
                Some(Damage::Superblock(SuperblockError::Version { .. })) => String::new(),
                Some(Damage::Superblock(_)) => format!(
                    ". If a clone has used it, clone_repair -i {name} -o NEW recovers what is left \
                     of it; clone_restore --hydrated none makes metadata for a new clone"
                ),
                _ => format!(
                    ". clone_check {name} lists all problems, and clone_repair -i {name} -o NEW \
                     writes whole metadata with everything that can be recovered"
                ),
            };
            anyhow!("{name}: {error}; nothing was written{way_out}")
        }
        _ => anyhow::Error::from(error).context(format!("cannot open {name}")),
    })
}

/// Refuses a regular file that cannot be metadata, with a better message than a damage report. All
/// other files pass, and the later open reports their errors.
fn check_looks_like_metadata(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    if !metadata.is_file() {
        return Ok(());
    }
    let Ok(file) = File::open(path) else { return Ok(()) };
    let mut start = Vec::new();
    file.take(64)
        .read_to_end(&mut start)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let path = path.display();
    match text_form(&start) {
        Some(TextForm::Xml) => bail!(
            "{path} is XML, not metadata; clone_restore -i {path} -o OUTPUT converts it to metadata"
        ),
        Some(TextForm::Json) => bail!(
            "{path} is JSON, not metadata; clone_restore --format json -i {path} -o OUTPUT \
             converts it to metadata if clone_dump wrote it"
        ),
        None => {}
    }
    match metadata.len() {
        0 => bail!("{path} is empty: it holds no metadata"),
        bytes if bytes < BLOCK_SIZE as u64 => bail!(
            "{path} has only {bytes} bytes: metadata begins with a superblock of {BLOCK_SIZE}; \
             this is something else, or it is truncated"
        ),
        _ => Ok(()),
    }
}
