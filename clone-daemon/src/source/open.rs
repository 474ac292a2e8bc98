//! Opens a source: chooses the backend, finds the identity, checks it against the pin.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clone_core::block_io::ReadData;
use clone_core::block_io::Source;
use clone_core::dm_target::DeviceLimits;
use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_tools::common::pin::LocalSource;
use persistent_data::device::OpenError;
use thiserror::Error;

use super::http::Server;
use super::identity::{Identity, Version};
use super::options::SourceOptions;
use super::pin::PinError;
use super::remote::Remote;
use super::retry::RetryingSource;
use super::retry_policy::{Doing, RetryPolicy};
use super::stats::SourceStats;
use super::uri::{NbdAddress, SourceSpec, Url};
use crate::source::nbd::{NbdOptions, NbdRemote};

/// An open source.
pub struct Opened {
    /// The data.
    pub source: Arc<dyn Source>,
    /// Identity, to be [pinned](super::pin).
    pub identity: Identity,
    /// Size and block size, for the checks of a clone.
    pub limits: DeviceLimits,
    /// Handle of a remote source; `None` for a local one.
    pub remote: Option<RemoteHandle>,
}

impl Opened {
    /// Returns a placeholder for the source of a complete clone. Every read fails.
    pub fn absent(size: Sectors) -> Self {
        let size_bytes = size.0.saturating_mul(SECTOR_SIZE);
        let limits = DeviceLimits { size, logical_block_size: SECTOR_SIZE };
        let identity = Identity { size_bytes, version: Version::Unknown };
        Self { source: Arc::new(Absent(size_bytes)), identity, limits, remote: None }
    }

    /// Returns whether the source is remote.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }
}

/// A missing source, with its size in bytes.
struct Absent(u64);

impl ReadData for Absent {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::NotFound, "the source no longer exists"))
    }
}

impl Source for Absent {}

/// Controls a remote source.
#[derive(Clone)]
pub struct RemoteHandle {
    /// Counters of the source.
    pub figures: Arc<SourceStats>,
    abandon: Arc<dyn Fn() + Send + Sync>,
}

impl RemoteHandle {
    /// Aborts requests in flight. All reads fail soon, now and later. A clone that stops calls
    /// this, so that it does not wait for a source that does not answer.
    pub fn abandon(&self) {
        (self.abandon)();
    }
}

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

/// Opens a source. A remote source is tried for [`SourceOptions::give_up_after`].
///
/// # Errors
/// [`SourceError::Local`], [`SourceError::Remote`] or [`SourceError::Url`] if the source cannot be
/// opened; [`SourceError::Setting`] and [`SourceError::UserAgent`] for invalid options;
/// [`SourceError::NotBuilt`] for an object store without the feature `object-store`;
/// [`SourceError::Pin`] with [`PinError::Differs`] if the source is not the `pinned` version.
pub fn open(
    spec: &SourceSpec,
    pinned: Option<&Identity>,
    options: &SourceOptions,
) -> Result<Opened, SourceError> {
    let opened = match spec {
        SourceSpec::Path(path) => {
            let local = LocalSource::open(path, options.access)?;
            let (identity, limits) = (local.identity().clone(), local.limits());
            Opened { source: Arc::new(local), identity, limits, remote: None }
        }
        SourceSpec::Http(url) => open_http(url, options)?,
        SourceSpec::Nbd(address) => open_nbd(address, options)?,
        #[cfg(feature = "object-store")]
        SourceSpec::Object(url) => open_object(url, pinned, options)?,
        #[cfg(not(feature = "object-store"))]
        SourceSpec::Object(_) => {
            return Err(SourceError::NotBuilt {
                place: spec.to_string(),
                what: "object stores",
                way_out: "build it with --features object-store, or use a URL with a signature",
            });
        }
    };
    if let Some(pinned) = pinned {
        pinned.require(spec, &opened.identity)?;
    }
    Ok(opened)
}

fn open_http(url: &Url, options: &SourceOptions) -> Result<Opened, SourceError> {
    let server = Server::new(url, options)?;
    let policy = RetryPolicy::new(url.to_string(), options);
    let deadline = policy.deadline(&Doing::Open);
    let identity = policy
        .persist(&Doing::Open, deadline, |deadline| server.identify(deadline))
        .map_err(SourceError::Remote)?;
    let remote = server.object(identity.clone());
    Ok(opened(RetryingSource::with_policy(remote, policy, options), identity))
}

fn open_nbd(address: &NbdAddress, options: &SourceOptions) -> Result<Opened, SourceError> {
    let policy = RetryPolicy::new(address.to_string(), options);
    let defaults = NbdOptions::default();
    let nbd = NbdOptions {
        connections: defaults.connections.min(options.requests_max).max(1),
        connect_timeout: options.connect_timeout,
        ca: options.ca_file.clone(),
        ..defaults
    };
    let deadline = policy.deadline(&Doing::Open);
    let remote = policy
        .persist(&Doing::Open, deadline, |deadline| {
            Ok(NbdRemote::open(address.clone(), nbd.clone(), deadline)?)
        })
        .map_err(SourceError::Remote)?;
    let identity = remote.identity();
    Ok(opened(RetryingSource::with_policy(remote, policy, options), identity))
}

#[cfg(feature = "object-store")]
fn open_object(
    url: &Url,
    pinned: Option<&Identity>,
    options: &SourceOptions,
) -> Result<Opened, SourceError> {
    let bucket = super::object::Bucket::new(url, options)?;
    let policy = RetryPolicy::new(url.to_string(), options);
    let deadline = policy.deadline(&Doing::Open);
    let identity = policy
        .persist(&Doing::Open, deadline, |deadline| bucket.identify(pinned, deadline))
        .map_err(SourceError::Remote)?;
    let remote = bucket.object(identity.clone());
    Ok(opened(RetryingSource::with_policy(remote, policy, options), identity))
}

/// Returns a remote source. It can be read from any byte.
fn opened<R: Remote>(source: RetryingSource<R>, identity: Identity) -> Opened {
    let source = Arc::new(source);
    let size = Sectors(source.size_bytes() / SECTOR_SIZE);
    let limits = DeviceLimits { size, logical_block_size: SECTOR_SIZE };
    let figures = source.stats().clone();
    let abandoned = source.clone();
    let abandon = Arc::new(move || abandoned.abandon());
    Opened { source, identity, limits, remote: Some(RemoteHandle { figures, abandon }) }
}
