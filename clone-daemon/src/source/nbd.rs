//! A client of NBD servers, which reads.
//!
//! - [`NbdRemote`] is an export as a source.
//! - `pool` makes connections, `handshake` agrees with the server on what they are, `connection`
//!   and `call` have many requests under way on each.
//! - `reply` and `request` are the protocol without any I/O. A server is never trusted: what does
//!   not fit what was asked ends the connection, and no byte of it is used.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]
#![expect(clippy::big_endian_bytes, reason = "that is the order of the protocol")]

mod call;
mod connection;
mod error;
mod extents;
mod handshake;
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

use crate::source::identity::Identity;
use crate::source::nbd::connection::Lease;
pub use crate::source::nbd::error::NbdError;
use crate::source::nbd::extents::Extents;
use crate::source::nbd::pool::Pool;
use crate::source::nbd::reply::Run;
use crate::source::nbd::stream::lock;
use crate::source::remote::{Remote, Trouble};
use crate::source::uri::NbdAddress;

/// How a server is used.
#[derive(Clone, Debug)]
pub struct NbdOptions {
    /// The most connections, where the server allows for more than one.
    pub connections: usize,
    /// The most bytes of a request; rounded to what the server can do.
    pub request_bytes: u32,
    /// The most requests that one read has under way.
    pub requests: usize,
    /// How long connecting may take, with all that is to be agreed upon.
    pub connect_timeout: Duration,
    /// A file with the authorities, in PEM, one of which is to vouch for the server; without it
    /// those of the system.
    pub ca: Option<PathBuf>,
    /// How long a server that owes an answer may send nothing before the connection is given up,
    /// when a deadline passes.
    pub silence: Duration,
    /// How long a server may take to tell extents, meanwhile data could be read.
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

/// An export of an NBD server, to read from.
///
/// The protocol has no versions of an export. It is taken for the same as long as its size, its
/// nature (whether it can be written to, whether it is a rotating disk) and its description are.
pub struct NbdRemote {
    pool: Arc<Pool>,
    options: NbdOptions,
    extents: Mutex<Extents>,
    /// How many connections had been lost when the extents were forgotten last.
    losses: AtomicU64,
    /// For how many bytes extents are asked.
    asked: AtomicU64,
}

/// For how many bytes extents are asked at first: one that is far away is not asked often.
const ASKED_MAX: u64 = 1 << 30;
/// The least that is asked for if the server is slow to tell.
const ASKED_MIN: u64 = 1 << 20;

impl NbdRemote {
    /// Connects to the export.
    ///
    /// # Errors
    /// [`NbdError`].
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
            asked: AtomicU64::new(ASKED_MAX),
        })
    }

    /// What the export is told from others by.
    pub fn identity(&self) -> Identity {
        self.pool.pinned().identity()
    }

    fn connection(&self, deadline: Instant) -> Result<Lease, NbdError> {
        let (connection, losses) = self.pool.get(deadline)?;
        // Under the lock, so that nobody finds what another is about to forget.
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
        // Blocks that are needed in part are read as a whole.
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
        let asked = self.asked.load(Ordering::Relaxed);
        let range = start..start.saturating_add(asked).min(size);
        let unknown = |end: u64| vec![Run { len: end - start, zeroes: false }];
        let end = range.end;
        let limit = deadline.min(Instant::now() + self.options.extents_timeout);
        // What the server cannot tell is read.
        let runs = match connection.status(range, context, limit) {
            Err(error @ NbdError::Server { .. }) if !error.is_shutdown() => unknown(end),
            Err(NbdError::Late) if asked > ASKED_MIN => {
                self.asked.store((asked / 16).max(ASKED_MIN), Ordering::Relaxed);
                return Err(NbdError::Late);
            }
            // Waiting that long again and again would cost more than holes that are read.
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

    fn read_at(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), Trouble> {
        Ok(self.read(offset, into, deadline)?)
    }

    fn extent(&self, offset: u64, deadline: Instant) -> Result<Extent, Trouble> {
        Ok(self.find(offset, deadline)?)
    }

    fn abandon(&self) {
        self.pool.abandon();
    }
}
