//! Opening a source.

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
use super::retry::Retrying;
use super::retry_policy::{Doing, Patience};
use super::stats::SourceFigures;
use super::uri::{NbdAddress, SourceSpec, Url};
use crate::source::nbd::{NbdOptions, NbdRemote};

/// A source that can be read.
pub struct Opened {
    /// For the clone.
    pub source: Arc<dyn Source>,
    /// What it is, to be [pinned](super::pin).
    pub identity: Identity,
    /// What a clone has to know of it.
    pub limits: DeviceLimits,
    /// What is across a network; `None` for what is of this machine.
    pub remote: Option<RemoteHandle>,
}

impl Opened {
    /// In the place of a source that nobody needs any more, of a clone that is complete. Every read
    /// fails.
    pub fn absent(size: Sectors) -> Self {
        let size_bytes = size.0.saturating_mul(SECTOR_SIZE);
        let limits = DeviceLimits { size, logical_block_size: SECTOR_SIZE };
        let identity = Identity { size_bytes, version: Version::Unknown };
        Self { source: Arc::new(Absent(size_bytes)), identity, limits, remote: None }
    }

    /// Whether it is across a network.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }
}

/// A source that is not there, and its size in bytes.
struct Absent(u64);

impl ReadData for Absent {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::NotFound, "the source is not there any more"))
    }
}

impl Source for Absent {}

/// A source across a network, for whoever is in charge of it.
#[derive(Clone)]
pub struct RemoteHandle {
    /// What is counted of it.
    pub figures: Arc<SourceFigures>,
    abandon: Arc<dyn Fn() + Send + Sync>,
}

impl RemoteHandle {
    /// Ends what is under way: from now on every read fails, and soon. For a clone that is to be
    /// stopped, which else waits for a source that does not answer.
    pub fn abandon(&self) {
        (self.abandon)();
    }
}

/// Why a source cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file or a block device.
    #[error(transparent)]
    Local(#[from] OpenError),
    /// It is not what the clone was begun with, or that is not known or cannot be written down.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// It was tried, and this came of it.
    #[error("cannot open the source: {0}")]
    Remote(io::Error),
    /// A URL that a web server cannot be asked for.
    #[error("{place} is not a URL: {reason}")]
    Url {
        /// The URL, without secrets.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A file that an option names.
    #[error("cannot use {path}: {source}")]
    Setting {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name of this program that is none.
    #[error("the user agent has characters that cannot be sent")]
    UserAgent,
    /// A kind of source that this program was built without.
    #[error("{place}: this program was built without {what}; {way_out}")]
    NotBuilt {
        /// The source.
        place: String,
        /// What is missing.
        what: &'static str,
        /// What to do.
        way_out: &'static str,
    },
}

/// Opens a source. What is across a network is tried for [`SourceOptions::give_up_after`].
///
/// # Errors
/// [`SourceError`]; in it [`PinError::Differs`] if `pinned` is another version.
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
    let patience = Patience::new(url.to_string(), options);
    let deadline = patience.deadline(&Doing::Open);
    let identity = patience
        .persist(&Doing::Open, deadline, |deadline| server.identify(deadline))
        .map_err(SourceError::Remote)?;
    let remote = server.object(identity.clone());
    Ok(opened(Retrying::with_patience(remote, patience, options), identity))
}

fn open_nbd(address: &NbdAddress, options: &SourceOptions) -> Result<Opened, SourceError> {
    let patience = Patience::new(address.to_string(), options);
    let defaults = NbdOptions::default();
    let nbd = NbdOptions {
        connections: defaults.connections.min(options.requests_max).max(1),
        connect_timeout: options.connect_timeout,
        ca: options.ca_file.clone(),
        ..defaults
    };
    let deadline = patience.deadline(&Doing::Open);
    let remote = patience
        .persist(&Doing::Open, deadline, |deadline| {
            Ok(NbdRemote::open(address.clone(), nbd.clone(), deadline)?)
        })
        .map_err(SourceError::Remote)?;
    let identity = remote.identity();
    Ok(opened(Retrying::with_patience(remote, patience, options), identity))
}

#[cfg(feature = "object-store")]
fn open_object(
    url: &Url,
    pinned: Option<&Identity>,
    options: &SourceOptions,
) -> Result<Opened, SourceError> {
    let bucket = super::object::Bucket::new(url, options)?;
    let patience = Patience::new(url.to_string(), options);
    let deadline = patience.deadline(&Doing::Open);
    let identity = patience
        .persist(&Doing::Open, deadline, |deadline| bucket.identify(pinned, deadline))
        .map_err(SourceError::Remote)?;
    let remote = bucket.object(identity.clone());
    Ok(opened(Retrying::with_patience(remote, patience, options), identity))
}

/// What is opened across a network. Such a source can be read from any byte on.
fn opened<R: Remote>(source: Retrying<R>, identity: Identity) -> Opened {
    let source = Arc::new(source);
    let size = Sectors(source.size_bytes() / SECTOR_SIZE);
    let limits = DeviceLimits { size, logical_block_size: SECTOR_SIZE };
    let figures = source.figures().clone();
    let abandoned = source.clone();
    let abandon = Arc::new(move || abandoned.abandon());
    Opened { source, identity, limits, remote: Some(RemoteHandle { figures, abandon }) }
}
