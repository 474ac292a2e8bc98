//! Opens a source: chooses the backend, finds the identity, checks it against the pin.

use std::sync::Arc;

use clone_core::block_io::ReadData;
use clone_core::dm_target::DeviceLimits;
use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_tools::common::pin::LocalSource;

use super::error::SourceError;
use super::http::Server;
use super::identity::Identity;
use super::opened::{Opened, RemoteHandle};
use super::options::SourceOptions;
use super::remote::Remote;
use super::retry::RetryingSource;
use super::retry_policy::{Operation, RetryPolicy};
use super::uri::{NbdAddress, SourceSpec, Url};
use crate::source::nbd::{NbdOptions, NbdRemote};

/// Opens a source. A remote source is tried for [`SourceOptions::give_up_after`].
///
/// # Errors
/// [`SourceError::Local`], [`SourceError::Remote`] or [`SourceError::Url`] if the source cannot be
/// opened; [`SourceError::Setting`] and [`SourceError::UserAgent`] for invalid options;
/// [`SourceError::NotBuilt`] for an object store without the feature `object-store`;
/// [`SourceError::Pin`] with [`PinError::Differs`](super::PinError::Differs) if the source is not
/// the `pinned` version.
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
    let deadline = policy.deadline(&Operation::Open);
    let identity = policy
        .run(&Operation::Open, deadline, |deadline| server.identify(deadline))
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
    let deadline = policy.deadline(&Operation::Open);
    let remote = policy
        .run(&Operation::Open, deadline, |deadline| {
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
    let deadline = policy.deadline(&Operation::Open);
    let identity = policy
        .run(&Operation::Open, deadline, |deadline| bucket.identify(pinned, deadline))
        .map_err(SourceError::Remote)?;
    let remote = bucket.object(identity.clone());
    Ok(opened(RetryingSource::with_policy(remote, policy, options), identity))
}

/// Returns a remote source. It can be read from any byte.
fn opened<R: Remote>(source: RetryingSource<R>, identity: Identity) -> Opened {
    let source = Arc::new(source);
    let size = Sectors(source.size_bytes() / SECTOR_SIZE);
    let limits = DeviceLimits { size, logical_block_size: SECTOR_SIZE };
    let stats = source.stats().clone();
    let abandoned = source.clone();
    let abandon = Arc::new(move || abandoned.abandon());
    let remote = Some(RemoteHandle::new(stats, abandon));
    Opened { source, identity, limits, remote }
}
