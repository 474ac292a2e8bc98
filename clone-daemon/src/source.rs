//! Where data come from that are cloned.

use std::io;
use std::sync::Arc;

use clone_core::driver::{Access, FileSource, Source};
use clone_core::target::DeviceLimits;
use persistent_data::device::OpenError;
use thiserror::Error;

pub mod pin;
pub mod remote;
pub mod spec;

pub use self::pin::Identity;
pub use self::spec::{NbdAddress, NbdEndpoint, SourceSpec, SpecError, Url};

/// What can be set on a source.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {}

/// A source that is open.
pub struct Opened {
    /// To read from.
    pub source: Arc<dyn Source>,
    /// What it is known by.
    pub identity: Identity,
    /// What a clone has to know of it.
    pub limits: DeviceLimits,
    /// Whether it is across a network.
    pub is_remote: bool,
}

/// Why a source cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It is a file or a block device.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no way to read it.
    #[error("sources of this kind cannot be read")]
    Kind,
    /// Its identity cannot be read or kept.
    #[error(transparent)]
    Pin(#[from] io::Error),
}

/// Opens a source.
///
/// # Errors
/// [`SourceError`].
pub fn open(
    spec: &SourceSpec,
    _: Option<&Identity>,
    _: &SourceOptions,
) -> Result<Opened, SourceError> {
    let SourceSpec::Path(path) = spec else { return Err(SourceError::Kind) };
    let source = FileSource::open(path, Access::Buffered)?;
    let limits = source.limits();
    Ok(Opened { source: Arc::new(source), identity: Identity {}, limits, is_remote: false })
}
