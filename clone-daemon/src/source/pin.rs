//! What a clone was begun with, kept beside its metadata.
//!
//! A clone of which a part is hydrated can go on only with the source that it was begun with. Which
//! one that is is written down when it is first used, and required ever after.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clone_tools::output::replace;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::identity::Identity;
use super::open::{Opened, SourceError};
use super::options::SourceOptions;
use super::spec::SourceSpec;

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

/// Why a source cannot be pinned.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PinError {
    /// The file cannot be read or written.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was done with it.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file makes no sense.
    #[error(
        "{path} does not say what the clone was begun with: {reason}; if you know that it is this \
         source, pin it anew"
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
         they hold the same; pin the new one if you know that"
    )]
    OtherPlace {
        /// The source that it was begun with.
        had: String,
        /// The one that is there now.
        has: String,
    },
}

impl Pin {
    /// A pin of what was opened as `spec`, now.
    pub fn new(spec: &SourceSpec, identity: Identity) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let pinned_at = since.map_or(0, |since| since.as_secs());
        Self { version: VERSION, source: spec.to_string(), identity, pinned_at }
    }

    /// Whether `spec` may be what was pinned, as far as that can be said before it is opened with
    /// [`identity`](Self::identity).
    ///
    /// # Errors
    /// [`PinError::OtherPlace`].
    pub fn check_place(&self, spec: &SourceSpec) -> Result<(), PinError> {
        let has = spec.to_string();
        if self.identity.is_size_alone() && self.source != has {
            return Err(PinError::OtherPlace { had: self.source.clone(), has });
        }
        Ok(())
    }

    /// Reads the pin at `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`PinError::Io`] and [`PinError::Form`].
    pub fn load(path: &Path) -> Result<Option<Self>, PinError> {
        let failed = |source| PinError::Io { doing: "read", path: path.into(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut text = Vec::new();
        file.take(PIN_MAX + 1).read_to_end(&mut text).map_err(failed)?;
        let form = |reason: String| PinError::Form { path: path.into(), reason };
        if text.len() as u64 > PIN_MAX {
            return Err(form(format!("it is longer than {PIN_MAX} bytes")));
        }
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
        let written = replace(path, |mut file| {
            serde_json::to_writer_pretty(file, self)?;
            file.write_all(b"\n")
        });
        let failed = |source| PinError::Io { doing: "write", path: path.into(), source };
        written.map_err(failed)
    }
}

/// Opens the source of a clone whose pin is at `path`; without a path it is not pinned. Also gives
/// what it is to be pinned as, if it is not yet. Nothing is written.
///
/// # Errors
/// [`SourceError`]; in it [`PinError`], and [`Differs`](SourceError::Differs) if another version is
/// pinned.
pub fn open(
    spec: &SourceSpec,
    path: Option<&Path>,
    options: &SourceOptions,
) -> Result<(Opened, Option<Pin>), SourceError> {
    let pinned = path.map(Pin::load).transpose()?.flatten();
    if let Some(pinned) = &pinned {
        pinned.check_place(spec)?;
    }
    let opened = super::open(spec, pinned.as_ref().map(|pin| &pin.identity), options)?;
    let new = pinned.is_none().then(|| Pin::new(spec, opened.identity.clone()));
    Ok((opened, new))
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Where the pin of a clone is that has its metadata at `metadata`: `META.source.json`. `None` for
/// a block device, beside which there is no place for files that lasts.
pub fn place(metadata: &Path) -> Option<PathBuf> {
    let is_device = fs::metadata(metadata).is_ok_and(|what| what.file_type().is_block_device());
    if is_device {
        return None;
    }
    let mut name = OsString::from(metadata);
    name.push(".source.json");
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Pin, PinError, place};
    use crate::source::SourceSpec;
    use crate::source::identity::{Identity, Version};

    fn pin(source: &str, version: Version) -> Pin {
        Pin::new(&source.parse().unwrap(), Identity { size_bytes: 4096, version })
    }

    #[test]
    fn a_pin_is_read_as_it_was_written_and_holds_no_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = place(&folder.path().join("meta")).unwrap();
        assert_eq!(path, folder.path().join("meta.source.json"));
        assert!(Pin::load(&path).unwrap().is_none());
        for version in [
            Version::Etag { etag: "\"a\\\"".into() },
            Version::Generation { etag: "\"a\"".into(), generation: "1".into() },
            Version::WeakEtag { etag: "W/\"a\"".into(), last_modified: None },
            Version::LastModified { last_modified: "now".into() },
            Version::File { seconds: -1, nanoseconds: 5, inode: u64::MAX },
            Version::Device { serial: Some("x".into()) },
            Version::Export { read_only: true, rotational: false, description: None },
            Version::Unknown,
        ] {
            let pin = pin("http://me:secret@host/a?secret", version);
            pin.store(&path).unwrap();
            assert_eq!(Pin::load(&path).unwrap(), Some(pin));
            assert!(!fs::read_to_string(&path).unwrap().contains("secret"));
        }
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn what_is_no_pin_is_refused_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let good = serde_json::to_string(&pin("/dev/null", Version::Unknown)).unwrap();
        for (text, told) in [
            (String::new(), "EOF"),
            (good[..good.len() - 1].to_owned(), "EOF"),
            (good.replace("\"version\":1", "\"version\":2"), "only 1 is known"),
            ("{\"version\":7,\"news\":1}".to_owned(), "its version is 7"),
            (good.replace("4096", "-1"), "invalid value"),
            (good.replace("unknown", "odd"), "unknown variant"),
            (good.replace("\"source\"", "\"sauce\""), "unknown field"),
            (" ".repeat(70_000), "longer than 65536"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = Pin::load(&path).unwrap_err();
            assert!(matches!(error, PinError::Form { .. }), "{error}");
            assert!(error.to_string().contains(told), "{error}");
        }
        let error = Pin::load(folder.path()).unwrap_err();
        assert!(matches!(error, PinError::Io { .. }), "{error}");
        let nowhere = folder.path().join("no/pin");
        let error = pin("/x", Version::Unknown).store(&nowhere).unwrap_err();
        assert!(error.to_string().starts_with("cannot write"), "{error}");
    }

    #[test]
    fn where_nothing_but_the_size_is_known_the_name_must_stay() {
        let other: SourceSpec = "nbd://b/x".parse().unwrap();
        let size_alone = pin("nbd://a/x", Version::Unknown);
        let told = size_alone.check_place(&other).unwrap_err().to_string();
        assert!(told.contains("nbd://a/x") && told.contains("nbd://b/x"), "{told}");
        size_alone.check_place(&"nbd://a/x".parse().unwrap()).unwrap();
        let known = pin("nbd://a/x", Version::Etag { etag: "\"x\"".into() });
        known.check_place(&other).unwrap();
    }

    #[test]
    fn beside_a_block_device_there_is_no_place() {
        // A path that leads nowhere will be a file.
        assert!(place(Path::new("nowhere")).is_some());
    }
}
