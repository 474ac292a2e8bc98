//! What a clone was begun with, kept beside its metadata.
//!
//! A clone of which a part is hydrated can go on only with the source that it was begun with:
//! of two sources it would become a mixture. So the source is written down when it is first used,
//! in `META.source.json`, and required ever after, by `clone_hydrate` and by `cloned`.
//!
//! - [`identity`]: which version of which source it is.
//! - [`local`]: a file or a block device that is checked after each read.
//!
//! *Invariant:* no byte is handed out that is not known to be of the version that was opened, as
//! far as its [identity](Identity::warning) can tell. Once another version was seen, every read
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

/// The version of the file that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The longest file that is read, in bytes.
const PIN_MAX: u64 = 64 << 10;

/// What a clone was begun with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    version: u32,
    /// The source, without secrets. Where more than its size is known of it, it may have another
    /// name today.
    source: String,
    /// Which version of it.
    pub identity: Identity,
    /// When that was written down, in seconds since 1970.
    pinned_at: u64,
}

/// Why a source is not the one that a clone was begun with, or cannot be told to be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PinError {
    /// The source cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file of the pin cannot be read or written.
    #[error(
        "cannot {doing} {}, which says what the clone was begun with: {source}",
        path.display()
    )]
    Io {
        /// What was done with it.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of the pin makes no sense.
    #[error(
        "{} does not say what the clone was begun with: {reason}; use --repin if you know that \
         it was this source",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing but the size is known of the source, and it has another name.
    #[error(
        "the clone was begun with {had}, and this is {has}: nothing but their size tells whether \
         they hold the same; use --repin if you know that they do"
    )]
    OtherPlace {
        /// The source that it was begun with.
        had: String,
        /// The one that is there now.
        has: String,
    },
    /// It is not what was pinned.
    #[error(
        "{place} is not what the clone was begun with: {difference}; what is hydrated is of the \
         old one, and so a clone of the two would be neither: bring the old one back, begin \
         again, or use --repin if you know that both hold the same"
    )]
    Differs {
        /// The source.
        place: String,
        /// What differs.
        difference: String,
    },
}

impl Pin {
    /// A pin of the source that is called `place`, now. `place` holds no secrets.
    pub fn new(place: impl Display, identity: Identity) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let pinned_at = since.map_or(0, |since| since.as_secs());
        Self { version: VERSION, source: place.to_string(), identity, pinned_at }
    }

    /// Whether the source that is called `place` may be what was pinned, as far as that can be said
    /// before its [`identity`](Self::identity) is known. `path` is where it lies, if it is a file
    /// or a block device: one of them may have several names.
    ///
    /// # Errors
    /// [`PinError::OtherPlace`].
    pub fn check_place(&self, place: impl Display, path: Option<&Path>) -> Result<(), PinError> {
        let has = place.to_string();
        let is_there =
            self.source == has || path.is_some_and(|path| are_same(path, Path::new(&self.source)));
        if self.identity.is_size_alone() && !is_there {
            return Err(PinError::OtherPlace { had: self.source.clone(), has });
        }
        Ok(())
    }

    /// Reads the pin at `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`PinError::Io`] and [`PinError::Form`].
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
        // Said first, for what else is in another version is not known.
        let versioned: Versioned =
            serde_json::from_slice(&text).map_err(|error| form(error.to_string()))?;
        if versioned.version != VERSION {
            let found = versioned.version;
            return Err(form(format!("its version is {found}, and only {VERSION} is known")));
        }
        let pin = serde_json::from_slice(&text).map_err(|error| form(error.to_string()))?;
        Ok(Some(pin))
    }

    /// Writes the pin to `path`, in place of what is there. It is on the medium then.
    ///
    /// # Errors
    /// [`PinError::Io`]. What was there is still there then, whole.
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

/// What lies beside the metadata of a clone, to be put beside other metadata of the same clone: a
/// pin, or what can only be told to be none by whoever uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried(Vec<u8>);

impl Carried {
    /// What is beside `metadata`; `None` if there is nothing, or no [place] for it.
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

    /// A new pin.
    ///
    /// # Errors
    /// That it cannot be written as text.
    pub fn new(pin: &Pin) -> io::Result<Self> {
        let mut text = serde_json::to_vec_pretty(pin)?;
        text.push(b'\n');
        Ok(Self(text))
    }

    /// Puts it to `path`, in place of what is there. It is on the medium then, and if nothing was
    /// there it is removed again unless it is [kept](Placed::keep).
    ///
    /// # Errors
    /// [`PinError::Io`]. What was there is still there then, whole.
    pub fn put(&self, path: &Path) -> Result<Placed, PinError> {
        let is_new = fs::symlink_metadata(path).is_err();
        write(path, |mut file| file.write_all(&self.0))?;
        Ok(Placed { path: path.into(), is_kept: !is_new })
    }
}

/// A pin that has been put somewhere.
#[must_use]
pub struct Placed {
    path: PathBuf,
    is_kept: bool,
}

impl Placed {
    /// Leaves it there.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if !self.is_kept {
            // There is another error to be told.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Where the pin of a clone is that has its metadata at `metadata`: `META.source.json`. `None` for
/// a block device, beside which there is no place for files that lasts.
///
/// Where `metadata` is a symbolic link, the pin is beside what it leads to, so that it is found by
/// every name; or beside the link if it is there already.
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

/// What is told where the pin has no [place].
pub fn no_place(metadata: &Path) -> String {
    format!(
        "{} is a block device: nothing is noted of the source, and whether it is still the one \
         that the clone was begun with is not seen at the next start",
        metadata.display()
    )
}

/// What is told where `hydrated` regions are there already and nothing says of which source.
pub fn not_noted(pin: &Path, hydrated: u64, place: impl Display) -> String {
    format!(
        "{} does not exist, and the clone has {} already: {place} is taken for the source that it \
         was begun with, and required from now on",
        pin.display(),
        Counted(hydrated, "hydrated region")
    )
}

/// Opens the file or block device at `path` as the source of a clone whose pin is at `pin`; without
/// that it is not pinned. Also gives what it is to be pinned as, if it is not yet. Nothing is
/// written.
///
/// # Errors
/// [`PinError`], but for that of writing.
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
