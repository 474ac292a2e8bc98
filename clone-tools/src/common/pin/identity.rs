//! The identity of a source: its size and its version.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use super::PinError;

/// Identifies one version of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The size of the source in bytes.
    pub size_bytes: u64,
    /// The version, as far as it is known.
    pub version: Version,
}

/// Identifies a version of a source, beside its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Version {
    /// A strong ETag (RFC 9110, section 8.8.3): different versions have different ones.
    Etag {
        /// The ETag, with its quotes.
        etag: String,
    },
    /// A version of an object in a store that keeps old versions: it stays readable after a newer
    /// one has been stored.
    Generation {
        /// The strong ETag, with its quotes.
        etag: String,
        /// The store's name for the version.
        generation: String,
    },
    /// An ETag that is weak or malformed: different bytes may have the same one.
    WeakEtag {
        /// The ETag as received.
        etag: String,
        /// The time of the last change, as received.
        last_modified: Option<String>,
    },
    /// No ETag, only the time of the last change, in whole seconds.
    LastModified {
        /// The time as received.
        last_modified: String,
    },
    /// A regular file.
    File {
        /// The time of the last change, in seconds since 1970.
        seconds: i64,
        /// The nanoseconds of that second.
        nanoseconds: i64,
        /// The inode number.
        inode: u64,
    },
    /// A block device.
    Device {
        /// The serial, which stays the same when the device is attached again.
        serial: Option<String>,
    },
    /// An export of an NBD server; the protocol has no versions.
    Export {
        /// True if the export is read-only.
        read_only: bool,
        /// True if the export is a rotating disk.
        rotational: bool,
        /// The server's description of the export.
        description: Option<String>,
    },
    /// Unknown.
    Unknown,
}

impl Identity {
    /// Returns the difference to `found`, or `None` if both can be the same version.
    pub fn difference(&self, found: &Self) -> Option<String> {
        if self.size_bytes != found.size_bytes {
            let (had, has) = (self.size_bytes, found.size_bytes);
            return Some(format!("it had {had} bytes, and has {has}"));
        }
        let is_same = match (&self.version, &found.version) {
            (Version::Device { serial: None }, Version::Device { .. }) => true,
            // A server may start or stop reporting versions while the bytes stay the same.
            (Version::Etag { etag: had }, Version::Generation { etag: has, .. })
            | (Version::Generation { etag: had, .. }, Version::Etag { etag: has }) => had == has,
            (had, has) => had == has,
        };
        if is_same {
            return None;
        }
        Some(format!(
            "it was identified by {}, and is now identified by {}",
            self.version, found.version
        ))
    }

    /// Requires that `found`, the identity of the source `place`, can be this version.
    ///
    /// # Errors
    /// [`PinError::Differs`] if it is another version.
    pub fn require(&self, place: impl Display, found: &Self) -> Result<(), PinError> {
        match self.difference(found) {
            None => Ok(()),
            Some(difference) => Err(PinError::Differs { place: place.to_string(), difference }),
        }
    }

    /// Returns a warning about changes of the source that this identity cannot detect.
    pub fn warning(&self) -> Option<&'static str> {
        match self.version {
            Version::Etag { .. } | Version::Generation { .. } | Version::File { .. } => None,
            Version::WeakEtag { .. } => {
                Some("its ETag is weak: different data may have the same one")
            }
            Version::LastModified { .. } => {
                Some("it has no ETag: two changes within a second cannot be distinguished")
            }
            Version::Device { .. } => Some("a block device: writes to it cannot be detected"),
            Version::Export { .. } => {
                Some("NBD has no versions: writes to the export cannot be detected")
            }
            Version::Unknown => {
                Some("only its size is known: changes of its data cannot be detected")
            }
        }
    }

    /// True if the identity is hardly more than the size.
    pub(super) fn is_size_alone(&self) -> bool {
        matches!(
            self.version,
            Version::Device { serial: None } | Version::Export { .. } | Version::Unknown
        )
    }
}

impl Version {
    /// Returns the version name of a store that keeps old versions.
    pub fn generation(&self) -> Option<&str> {
        match self {
            Self::Generation { generation, .. } => Some(generation),
            _ => None,
        }
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etag { etag } => write!(f, "the ETag {etag}"),
            Self::Generation { etag, generation } => {
                write!(f, "the ETag {etag} and the version {generation}")
            }
            Self::WeakEtag { etag, last_modified: None } => write!(f, "the weak ETag {etag}"),
            Self::WeakEtag { etag, last_modified: Some(time) } => {
                write!(f, "the weak ETag {etag} of {time}")
            }
            Self::LastModified { last_modified } => write!(f, "its last change, {last_modified}"),
            Self::File { seconds, nanoseconds, inode } => {
                write!(f, "inode {inode}, changed at {seconds}.{nanoseconds:09}")
            }
            Self::Device { serial: Some(serial) } => write!(f, "the serial {serial}"),
            Self::Device { serial: None } => f.write_str("a block device without a serial"),
            Self::Export { read_only, rotational, description } => {
                let access = if *read_only { "a read-only" } else { "a writable" };
                let disk = if *rotational { " rotating" } else { "" };
                write!(f, "{access}{disk} export")?;
                match description {
                    Some(description) => write!(f, " described as {description:?}"),
                    None => f.write_str(" without a description"),
                }
            }
            Self::Unknown => f.write_str("only its size"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Version};

    #[test]
    fn versions_that_differ_are_told_apart_and_what_differs_is_said() {
        let etag = |etag: &str| Version::Etag { etag: etag.into() };
        let device = |serial: Option<&str>| Version::Device { serial: serial.map(str::to_owned) };
        let export = |read_only, description: Option<&str>| {
            let description = description.map(str::to_owned);
            Version::Export { read_only, rotational: false, description }
        };
        let file = |nanoseconds| Version::File { seconds: 5, nanoseconds, inode: 7 };
        let known = |version| Identity { size_bytes: 512, version };
        for (had, has, told) in [
            (
                etag("\"a\""),
                etag("\"b\""),
                "by the ETag \"a\", and is now identified by the ETag \"b\"",
            ),
            (etag("\"a\""), Version::Unknown, "and is now identified by only its size"),
            (file(1), file(2), "inode 7, changed at 5.000000001, and is now identified by"),
            (export(true, None), export(false, None), "by a read-only export without a"),
            (export(true, Some("a\n")), export(true, Some("b")), "described as \"a\\n\", and"),
            (
                device(Some("a")),
                device(None),
                "by the serial a, and is now identified by a block device",
            ),
        ] {
            let told_us = known(had.clone()).difference(&known(has)).unwrap();
            assert!(told_us.contains(told), "{told_us}");
            assert_eq!(known(had.clone()).difference(&known(had)), None);
        }
        assert_eq!(known(device(None)).difference(&known(device(Some("b")))), None);
        assert!(known(device(None)).difference(&known(Version::Unknown)).is_some());
        let generation = |etag: &str, generation: &str| Version::Generation {
            etag: etag.into(),
            generation: generation.into(),
        };
        let (old, new) = (known(generation("\"a\"", "1")), known(generation("\"a\"", "2")));
        assert!(old.difference(&new).unwrap().contains("and the version 2"));
        assert_eq!(old.difference(&known(etag("\"a\""))), None);
        assert_eq!(known(etag("\"a\"")).difference(&old), None);
        assert!(known(etag("\"b\"")).difference(&old).is_some());
        let longer = Identity { size_bytes: 513, version: etag("\"a\"") };
        let told = known(etag("\"a\"")).difference(&longer);
        assert_eq!(told.as_deref(), Some("it had 512 bytes, and has 513"));
    }
}
