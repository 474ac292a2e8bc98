//! A read-only NBD client.
//!
//! - [`NbdRemote`] makes an export a source: it implements [`Remote`], and the retry policy around
//!   it decides when a failed call is repeated.
//! - `pool` opens connections, `handshake` negotiates with the server, and `connection` and `call`
//!   keep many requests in flight on each connection.
//! - `reply` and `request` are the protocol without any I/O.
//!
//! The server is never trusted: a reply that does not match its request ends the connection, and
//! none of its bytes are used.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]
#![expect(clippy::big_endian_bytes, reason = "that is the order of the protocol")]

mod call;
mod connection;
mod error;
mod extents;
mod handshake;
mod inbound;
mod pool;
mod reply;
mod request;
mod stream;
mod tls;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clone_core::block_io::Extent;
use clone_core::sync::lock;

use crate::source::identity::Identity;
use crate::source::nbd::connection::ConnectionLease;
pub use crate::source::nbd::error::NbdError;
use crate::source::nbd::extents::Extents;
use crate::source::nbd::pool::Pool;
use crate::source::nbd::reply::Run;
use crate::source::remote::{Remote, RemoteError};
use crate::source::uri::NbdAddress;

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct NbdOptions {
    /// Maximum number of connections, if the server allows more than one.
    pub connections: usize,
    /// Maximum length of a request in bytes; rounded to what the server supports.
    pub request_bytes: u32,
    /// Maximum number of requests in flight for one read.
    pub requests: usize,
    /// Time limit for connecting, including the negotiation.
    pub connect_timeout: Duration,
    /// A PEM file with certificate authorities, one of which must have issued the certificate of
    /// the server; `None` means those of the system.
    pub ca: Option<PathBuf>,
    /// A connection whose server sends nothing for this long is closed when a caller reaches its
    /// deadline with requests in flight.
    pub silence: Duration,
    /// Time limit for a block status request. Data could be read in that time instead.
    pub extents_timeout: Duration,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            connections: 4,
            request_bytes: 256 << 10,
            requests: 16,
            connect_timeout: Duration::from_secs(10),
            ca: None,
            silence: Duration::from_secs(10),
            extents_timeout: Duration::from_secs(5),
        }
    }
}

/// An export of an NBD server, as a source.
///
/// The protocol has no versions of an export. An export counts as unchanged as long as its size,
/// its flags (read-only, rotational) and its description stay the same.
pub struct NbdRemote {
    pool: Arc<Pool>,
    options: NbdOptions,
    extents: Mutex<Extents>,
    /// Number of lost connections when the extents were last cleared.
    losses: AtomicU64,
    /// Length of the range of a block status request in bytes.
    status_bytes: AtomicU64,
}

/// Initial length of the range of a block status request. A large range keeps the number of round
/// trips to a distant server low.
const STATUS_BYTES_MAX: u64 = 1 << 30;
/// Minimum length of that range, for a server that answers slowly.
const STATUS_BYTES_MIN: u64 = 1 << 20;

impl NbdRemote {
    /// Connects to an export.
    ///
    /// # Errors
    /// - [`NbdError::Tls`]: TLS cannot be set up as configured.
    /// - [`NbdError::Io`], [`NbdError::Late`]: the server cannot be reached, or not in time.
    /// - [`NbdError::Greeting`], [`NbdError::Refused`]: the negotiation fails.
    pub fn open(
        address: NbdAddress,
        options: NbdOptions,
        deadline: Instant,
    ) -> Result<Self, NbdError> {
        let tls = match address.tls {
            true => Some(tls::set_up(&address.endpoint, options.ca.as_deref())?),
            false => None,
        };
        let pool = Pool::open(address, options.clone(), tls, deadline)?;
        Ok(Self {
            pool,
            options,
            extents: Mutex::default(),
            losses: AtomicU64::new(0),
            status_bytes: AtomicU64::new(STATUS_BYTES_MAX),
        })
    }

    /// Returns the properties that identify the export.
    pub fn identity(&self) -> Identity {
        self.pool.pinned().identity()
    }

    fn connection(&self, deadline: Instant) -> Result<ConnectionLease, NbdError> {
        let (connection, losses) = self.pool.get(deadline)?;
        // Under the lock: otherwise a caller could find extents that another one is about to clear.
        let mut extents = lock(&self.extents);
        if self.losses.swap(losses, Ordering::Relaxed) != losses {
            extents.clear();
        }
        Ok(connection)
    }

    fn size(&self) -> u64 {
        self.pool.pinned().size
    }

    fn read(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), NbdError> {
        let (len, size) = (into.len() as u64, self.size());
        let end = offset.checked_add(len).filter(|&end| end <= size);
        let Some(end) = end else { return Err(NbdError::PastEnd { start: offset, len, size }) };
        if into.is_empty() {
            return Ok(());
        }
        let connection = self.connection(deadline)?;
        let export = connection.export();
        let block = u64::from(export.block_min);
        let piece = self.options.request_bytes.clamp(export.block_min, export.block_max);
        let how = (u64::from(piece) / block * block, self.options.requests);
        let start = offset / block * block;
        let until = end.div_ceil(block).saturating_mul(block).min(size);
        if (start, until) == (offset, end) {
            return connection.read(offset, into, how, deadline);
        }
        // Blocks that are needed only in part are read as a whole.
        let mut whole = vec![0; into.len() + (offset - start) as usize + (until - end) as usize];
        connection.read(start, &mut whole, how, deadline)?;
        into.copy_from_slice(&whole[(offset - start) as usize..][..into.len()]);
        Ok(())
    }

    fn find(&self, offset: u64, deadline: Instant) -> Result<Extent, NbdError> {
        let size = self.size();
        let data = Extent { zeroes: false, end: size };
        if offset >= size {
            return Err(NbdError::PastEnd { start: offset, len: 1, size });
        }
        let connection = self.connection(deadline)?;
        if let Some(extent) = lock(&self.extents).find(offset) {
            return Ok(extent);
        }
        let age = lock(&self.extents).age();
        let export = connection.export();
        let Some(context) = export.allocation else { return Ok(data) };
        let block = u64::from(export.block_min);
        let start = offset / block * block;
        let bytes = self.status_bytes.load(Ordering::Relaxed);
        let range = start..start.saturating_add(bytes).min(size);
        let unknown = |end: u64| vec![Run { len: end - start, zeroes: false }];
        let end = range.end;
        let limit = deadline.min(Instant::now() + self.options.extents_timeout);
        // A range whose status the server cannot report counts as data.
        let runs = match connection.status(range, context, limit) {
            Err(error @ NbdError::Server { .. }) if !error.is_shutdown() => unknown(end),
            Err(NbdError::Late) if bytes > STATUS_BYTES_MIN => {
                self.status_bytes.store((bytes / 16).max(STATUS_BYTES_MIN), Ordering::Relaxed);
                return Err(NbdError::Late);
            }
            // Further waits of this length would cost more than reading the holes.
            Err(NbdError::Late) => unknown(size),
            runs => runs?,
        };
        let mut extents = lock(&self.extents);
        extents.add(age, start, &runs, size);
        Ok(extents.find(offset).unwrap_or(data))
    }
}

impl Remote for NbdRemote {
    fn size_bytes(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), RemoteError> {
        Ok(self.read(offset, into, deadline)?)
    }

    fn extent(&self, offset: u64, deadline: Instant) -> Result<Extent, RemoteError> {
        Ok(self.find(offset, deadline)?)
    }

    fn abandon(&self) {
        self.pool.abandon();
    }
}
