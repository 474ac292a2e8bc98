//! The pin: a record of the source of a clone, kept beside its metadata.
//!
//! A partly hydrated clone can continue only with its original source: with another one it would
//! become a mixture of both. The source is therefore recorded at its first use, in
//! `META.source.json`, and `clone_hydrate` and `cloned` require it from then on.
//!
//! - [`identity`]: the version of a source.
//! - [`local`]: a file or block device that is checked after each read.
//!
//! *Invariant:* every byte that a source returns belongs to the version that was opened, as far as
//! its [identity](Identity::warning) can show. After a different version has been seen, every read
//! fails.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clone_core::block_io::Access;
use persistent_data::device::OpenError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::identity::{Identity, Version};
pub use self::local::LocalSource;
use crate::common::output::replace;
use crate::common::paths::are_same;
use crate::common::small_file;
use crate::common::units::Counted;

pub mod identity;
pub mod local;

/// The version of the file format; no other version is accepted.
const VERSION: u32 = 1;
/// The maximum length of the file, in bytes.
const PIN_MAX: u64 = 64 << 10;

/// The source of a clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    version: u32,
    /// The source, without secrets. It may have a different name today, unless only its size is
    /// known.
    source: String,
    /// The version of the source.
    pub identity: Identity,
    /// The time at which the pin was made, in seconds since 1970.
    pinned_at: u64,
}

/// The source is not the original source of the clone, or this cannot be verified.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PinError {
    /// The source cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The pin file cannot be read or written.
    #[error(
        "cannot {doing} {}, the record of the clone's source: {source}",
        path.display()
    )]
    Io {
        /// The operation: `read` or `write`.
        doing: &'static str,
        /// The pin file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The pin file is invalid.
    #[error(
        "{} is not a valid record of the clone's source: {reason}; use --repin if you know that \
         this is the original source",
        path.display()
    )]
    Form {
        /// The pin file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Only the size of the source is known, and its name is different.
    #[error(
        "the original source of the clone is {had}, and this is {has}: only their sizes can be \
         compared; use --repin if you know that both hold the same data"
    )]
    OtherPlace {
        /// The original source.
        had: String,
        /// The current source.
        has: String,
    },
    /// The source differs from the pin.
    #[error(
        "{place} is not the original source of the clone: {difference}; the hydrated regions are \
         from the original one, and the clone would become a mixture of both: restore the original \
         source, start a new clone, or use --repin if you know that both hold the same data"
    )]
    Differs {
        /// The current source.
        place: String,
        /// The difference.
        difference: String,
    },
}

impl Pin {
    /// Creates a pin for the source with the name `place`, with the current time. `place` must not
    /// contain secrets.
    pub fn new(place: impl Display, identity: Identity) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let pinned_at = since.map_or(0, |since| since.as_secs());
        Self { version: VERSION, source: place.to_string(), identity, pinned_at }
    }

    /// Checks whether the source with the name `place` can be the pinned one, as far as this is
    /// possible before its [`identity`](Self::identity) is known. `path` is the path of a file or
    /// block device, which may have several names.
    ///
    /// # Errors
    /// [`PinError::OtherPlace`] if only the size of the pinned source is known and the name
    /// differs.
    pub fn check_place(&self, place: impl Display, path: Option<&Path>) -> Result<(), PinError> {
        let has = place.to_string();
        let is_there =
            self.source == has || path.is_some_and(|path| are_same(path, Path::new(&self.source)));
        if self.identity.is_size_alone() && !is_there {
            return Err(PinError::OtherPlace { had: self.source.clone(), has });
        }
        Ok(())
    }

    /// Reads the pin at `path`. Returns `None` if there is none.
    ///
    /// # Errors
    /// [`PinError::Io`] if the file cannot be read; [`PinError::Form`] if it is too long, not valid
    /// JSON, or of another version.
    pub fn load(path: &Path) -> Result<Option<Self>, PinError> {
        let form = |reason: String| PinError::Form { path: path.into(), reason };
        let text = match small_file::read(path, PIN_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(form(error.to_string()));
            }
            Err(source) => return Err(PinError::Io { doing: "read", path: path.into(), source }),
        };
        // Checked first: the other fields of another version are unknown.
        let versioned: Versioned =
            serde_json::from_slice(&text).map_err(|error| form(error.to_string()))?;
        if versioned.version != VERSION {
            let found = versioned.version;
            return Err(form(format!("its version is {found}, and only {VERSION} is known")));
        }
        let pin = serde_json::from_slice(&text).map_err(|error| form(error.to_string()))?;
        Ok(Some(pin))
    }

    /// Writes the pin to `path`, replacing an existing file, and syncs it.
    ///
    /// # Errors
    /// [`PinError::Io`]. The old file is then unchanged.
    pub fn store(&self, path: &Path) -> Result<(), PinError> {
        write(path, |mut file| {
            serde_json::to_writer_pretty(file, self)?;
            file.write_all(b"\n")
        })
    }
}

fn write(path: &Path, put: impl FnOnce(&File) -> io::Result<()>) -> Result<(), PinError> {
    let failed = |source| PinError::Io { doing: "write", path: path.into(), source };
    replace(path, put).map_err(failed)
}

/// The bytes of a pin file, to be copied beside other metadata of the same clone. They may be
/// invalid: only the use of the pin checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried(Vec<u8>);

impl Carried {
    /// Reads the file beside `metadata`. Returns `None` if there is none, or no [place] for one.
    ///
    /// # Errors
    /// [`PinError::Io`].
    pub fn from_beside(metadata: &Path) -> Result<Option<Self>, PinError> {
        let Some(path) = place(metadata) else { return Ok(None) };
        match small_file::read(&path, PIN_MAX) {
            Ok(bytes) => Ok(Some(Self(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PinError::Io { doing: "read", path, source }),
        }
    }

    /// Creates the bytes of a new pin.
    ///
    /// # Errors
    /// The pin cannot be serialized.
    pub fn new(pin: &Pin) -> io::Result<Self> {
        let mut text = serde_json::to_vec_pretty(pin)?;
        text.push(b'\n');
        Ok(Self(text))
    }

    /// Writes the bytes to `path`, replacing an existing file, and syncs them. A file that did not
    /// exist before is removed again unless it is [kept](Placed::keep).
    ///
    /// # Errors
    /// [`PinError::Io`]. The old file is then unchanged.
    pub fn put(&self, path: &Path) -> Result<Placed, PinError> {
        let is_new = fs::symlink_metadata(path).is_err();
        write(path, |mut file| file.write_all(&self.0))?;
        Ok(Placed { path: path.into(), is_kept: !is_new })
    }
}

/// A pin file that has been written. If it is new, dropping this removes it.
#[must_use]
pub struct Placed {
    path: PathBuf,
    is_kept: bool,
}

impl Placed {
    /// Leaves the file in place.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if !self.is_kept {
            // Another error is already being reported.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Returns the path of the pin for the metadata at `metadata`: `META.source.json`. `None` for a
/// block device: files beside a device node do not last.
///
/// If `metadata` is a symbolic link, the pin is beside the target, so that every name leads to it;
/// or beside the link if it exists only there.
pub fn place(metadata: &Path) -> Option<PathBuf> {
    let is_device = fs::metadata(metadata).is_ok_and(|what| what.file_type().is_block_device());
    if is_device {
        return None;
    }
    let named = beside(metadata);
    let is_link = fs::symlink_metadata(metadata).is_ok_and(|what| what.is_symlink());
    let Some(real) = is_link.then(|| fs::canonicalize(metadata).ok()).flatten() else {
        return Some(named);
    };
    let real = beside(&real);
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    Some(if !is_there(&real) && is_there(&named) { named } else { real })
}

fn beside(metadata: &Path) -> PathBuf {
    let mut name = OsString::from(metadata);
    name.push(".source.json");
    name.into()
}

/// Returns the warning for metadata that has no [place] for a pin.
pub fn no_place(metadata: &Path) -> String {
    format!(
        "{} is a block device, so the source is not recorded: the next start cannot detect a \
         different source",
        metadata.display()
    )
}

/// Returns the warning for a clone that has `hydrated` regions but no pin.
pub fn not_noted(pin: &Path, hydrated: u64, place: impl Display) -> String {
    format!(
        "{} does not exist, but the clone already has {}: {place} is assumed to be its original \
         source, and is required from now on",
        pin.display(),
        Counted(hydrated, "hydrated region")
    )
}

/// Opens the file or block device at `path` as the source of a clone, and checks it against the pin
/// at `pin`, if that is given and exists. Also returns the pin to store if there is none yet.
/// Nothing is written.
///
/// # Errors
/// [`PinError::Open`], [`PinError::Io`] and [`PinError::Form`] if a file cannot be opened or read;
/// [`PinError::OtherPlace`] and [`PinError::Differs`] if the source is not the pinned one.
pub fn open_local(
    path: &Path,
    access: Access,
    pin: Option<&Path>,
) -> Result<(LocalSource, Option<Pin>), PinError> {
    let pinned = pin.map(Pin::load).transpose()?.flatten();
    if let Some(pinned) = &pinned {
        pinned.check_place(path.display(), Some(path))?;
    }
    let source = LocalSource::open(path, access)?;
    let Some(pinned) = pinned else {
        let new = Pin::new(path.display(), source.identity().clone());
        return Ok((source, Some(new)));
    };
    pinned.identity.require(path.display(), source.identity())?;
    Ok((source, None))
}

#[cfg(test)]
mod tests;
