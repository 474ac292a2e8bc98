//! Opens inputs: metadata to read or to change, and documents to restore.
//!
//! All tools open their inputs here, so that they refuse unsuitable files in the same words.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clone_core::check::{Report, read};
use clone_core::damage::Damage;
use clone_core::live::read_live;
use clone_core::metadata::{Metadata, MetadataError};
use clone_core::superblock::SuperblockError;
use persistent_data::BLOCK_SIZE;
use persistent_data::device::{FileDevice, OpenError, ReadOnly};

use crate::document::{TextForm, text_form};
use crate::progress::{Bar, Watched};

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
pub fn read_metadata(path: &Path, live: bool, quiet: bool) -> Result<Report> {
    let device = open_metadata(path, live)?;
    let bar = Bar::new("reading", quiet);
    let report = if live { read_live(&device, &bar) } else { Ok(read(&device, &bar)) };
    bar.finish();
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
                    ". If a clone has used it, clone_repair -i {name} -o NEW finds what is left of \
                     it; clone_restore --hydrated none makes metadata for a new clone"
                ),
                _ => format!(
                    ". clone_check {name} tells all that is wrong, and clone_repair -i {name} -o \
                     NEW makes whole metadata of what can be recovered"
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
            "{path} is XML, not metadata; clone_restore -i {path} -o OUTPUT makes metadata of it"
        ),
        Some(TextForm::Json) => bail!(
            "{path} is JSON, not metadata; clone_restore --format json -i {path} -o OUTPUT makes \
             metadata of it if clone_dump wrote it"
        ),
        None => {}
    }
    match metadata.len() {
        0 => bail!("{path} is empty: it holds no metadata"),
        bytes if bytes < BLOCK_SIZE as u64 => bail!(
            "{path} has only {bytes} bytes: metadata begins with a superblock of {BLOCK_SIZE}; \
             this is something else, or what is left of it"
        ),
        _ => Ok(()),
    }
}

/// Opens a document: a file, a pipe, or stdin for `-`. `bar` shows how much of it has been read.
///
/// # Errors
/// The file cannot be opened, or is a directory.
pub fn open_document<'a>(path: &Path, bar: &'a Bar) -> Result<Box<dyn Read + 'a>> {
    if is_dash(path) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let metadata = file.metadata().with_context(|| format!("cannot open {name}"))?;
    if metadata.is_dir() {
        bail!("{name} is a directory; give a file, or - for stdin");
    }
    Ok(Box::new(Watched::file(file, bar)))
}

/// Returns the name of a document for messages.
pub fn document_name(path: &Path) -> String {
    if is_dash(path) { "stdin".to_owned() } else { path.display().to_string() }
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

/// Returns whether two paths lead to the same regular file or block device.
pub fn are_same(a: &Path, b: &Path) -> bool {
    let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) else { return false };
    if a.file_type().is_block_device() && b.file_type().is_block_device() {
        return a.rdev() == b.rdev();
    }
    // Terminals, /dev/null and the like are not overwritten.
    a.is_file() && b.is_file() && a.dev() == b.dev() && a.ino() == b.ino()
}
