//! The block-device view of a clone that all exporters (NBD, FUSE, ublk) share.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use clone_core::driver::{Client, CloneExtent};
use clone_core::engine::{ByteRange, Operation, RequestError};

use crate::export::stats::{Kind, Stats};

/// A clone that is exported. The volume can outlive the clone: requests to a stopped clone fail
/// with [`RequestError::Stopped`].
pub struct Volume {
    name: String,
    region_bytes: u64,
    client: Client,
    stats: Arc<Stats>,
}

impl Volume {
    /// Creates a volume called `name`. `region_bytes` is the size of a region in bytes.
    pub fn new(name: impl Into<String>, region_bytes: u64, client: Client) -> Self {
        Self { name: name.into(), region_bytes, client, stats: Arc::default() }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the size of the clone in bytes, a multiple of 512.
    pub fn size_bytes(&self) -> u64 {
        self.client.size_bytes()
    }

    /// Returns the size of a region in bytes, a power of two.
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    /// Returns the preferred alignment of requests in bytes: a power of two, at least 4096. Other
    /// requests work too, with more effort.
    pub fn block_bytes(&self) -> u64 {
        self.client.block_bytes()
    }

    /// Returns the counters of all users.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Creates a user; each connection or thread needs its own.
    pub fn user(&self) -> User {
        User { client: self.client.another(), stats: self.stats.clone() }
    }
}

/// All exported volumes.
pub trait Volumes: Send + Sync {
    /// Returns the names, sorted.
    fn names(&self) -> Vec<String>;

    /// Finds the volume called `name`. An empty name means the only volume, if there is just one.
    fn find(&self, name: &str) -> Option<Arc<Volume>>;
}

/// A user of a volume.
///
/// [`read_now`](Self::read_now) and [`write_now`](Self::write_now) are the fast path: they run
/// requests for hydrated regions that need no flush on the caller's thread.
/// All other requests are [submitted](Self::submit), and complete in any order.
pub struct User {
    client: Client,
    stats: Arc<Stats>,
}

impl User {
    /// Returns the size of the clone in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.client.size_bytes()
    }

    /// See [`Volume::block_bytes`].
    pub fn block_bytes(&self) -> u64 {
        self.client.block_bytes()
    }

    /// Reads from `offset` on, on the caller's thread, if all of the range is on the destination.
    /// `None` if the request has to be [submitted](Self::submit).
    pub fn read_now(&self, offset: u64, into: &mut [u8]) -> Option<Result<(), RequestError>> {
        let len = into.len() as u64;
        self.timed(Kind::Read, len, || self.client.try_read(offset, into))
    }

    /// Writes `data` to `offset`, on the caller's thread, if nothing has to be copied for it. The
    /// data are not durable then. `None` if the request has to be [submitted](Self::submit).
    pub fn write_now(&self, offset: u64, data: &[u8]) -> Option<Result<(), RequestError>> {
        self.timed(Kind::Write, data.len() as u64, || self.client.try_write(offset, data))
    }

    fn timed(
        &self,
        kind: Kind,
        bytes: u64,
        act: impl FnOnce() -> Option<Result<(), RequestError>>,
    ) -> Option<Result<(), RequestError>> {
        let began = Instant::now();
        let result = act()?;
        self.stats.note(kind, true, bytes, began.elapsed(), result.is_ok());
        Some(result)
    }

    /// Submits a request and returns without waiting for it. See [`Client::submit`], whose rules
    /// for locks, threads and buffers apply here. `done` must not block: it runs on a thread that
    /// others need.
    ///
    /// # Panics
    /// If the buffer of a read or a write is not as long as `range`.
    pub fn submit(
        &self,
        operation: Operation,
        range: ByteRange,
        durable: bool,
        buffer: Vec<u8>,
        done: impl FnOnce(Result<(), RequestError>, Vec<u8>) + Send + 'static,
    ) {
        let (stats, began) = (self.stats.clone(), Instant::now());
        let kind = Kind::of(operation);
        let hydrated = match self.client.hydrated(&range) {
            Some((hydrated, end)) => hydrated && end >= range.end,
            None => true,
        };
        let bytes = range.end.saturating_sub(range.start);
        stats.begin();
        self.client.submit(operation, range, durable, buffer, move |result, buffer| {
            stats.end();
            stats.note(kind, hydrated, bytes, began.elapsed(), result.is_ok());
            done(result, buffer);
        });
    }

    /// Returns the extent at the start of `range`: see [`Client::extent`].
    ///
    /// # Errors
    /// An I/O error if the source or the destination cannot report its extents.
    pub fn extent(&self, range: &ByteRange) -> io::Result<Option<CloneExtent>> {
        self.client.extent(range)
    }

    /// Returns whether `range` begins in a hydrated extent, and the end of that extent in bytes:
    /// see [`Client::hydrated`].
    pub fn hydrated(&self, range: &ByteRange) -> Option<(bool, u64)> {
        self.client.hydrated(range)
    }
}
