//! Errors of opening a source.

use std::io;
use std::path::PathBuf;

use clone_tools::common::pin::PinError;
use persistent_data::device::OpenError;
use thiserror::Error;

/// An error in opening a source.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file or a block device cannot be opened.
    #[error(transparent)]
    Local(#[from] OpenError),
    /// The source does not match the pin, or the pin cannot be read or written.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A remote source cannot be opened.
    #[error("cannot open the source: {0}")]
    Remote(io::Error),
    /// An invalid URL.
    #[error("{place} is not a URL: {reason}")]
    Url {
        /// The URL, without secrets.
        place: String,
        /// The error in it.
        reason: String,
    },
    /// A file named by an option cannot be used.
    #[error("cannot use {path}: {source}")]
    Setting {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An invalid `User-Agent`.
    #[error("the user agent has characters that cannot be sent")]
    UserAgent,
    /// A kind of source that this binary was built without.
    #[error("{place}: this program was built without {what}; {way_out}")]
    NotBuilt {
        /// The source.
        place: String,
        /// The missing feature.
        what: &'static str,
        /// A way out.
        way_out: &'static str,
    },
}
