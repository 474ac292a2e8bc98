//! A clone as those see it who serve it to others.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use clone_core::driver::{Client, Stretch};
use clone_core::engine::{ByteRange, Operation, RequestError};

use crate::export::stats::{Figures, Kind};

/// A clone that is served. It outlives the clone: requests to one that was stopped fail with
/// [`RequestError::Stopped`].
pub struct Volume {
    name: String,
    region_bytes: u64,
    client: Client,
    figures: Arc<Figures>,
}

impl Volume {
    /// A clone called `name`, with regions of so many bytes.
    pub fn new(name: impl Into<String>, region_bytes: u64, client: Client) -> Self {
        Self { name: name.into(), region_bytes, client, figures: Arc::default() }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the clone, a multiple of 512.
    pub fn size_bytes(&self) -> u64 {
        self.client.size_bytes()
    }

    /// Bytes of a region, a power of two.
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    /// What requests should begin and end at multiples of, in bytes: a power of two, 4096 or more.
    /// All others are done too, with more effort.
    pub fn block_bytes(&self) -> u64 {
        self.client.block_bytes()
    }

    /// What was counted of all its users.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Somebody who uses it: one for each connection, or for each thread.
    pub fn user(&self) -> User {
        User { client: self.client.another(), figures: self.figures.clone() }
    }
}

/// All volumes that are served.
pub trait Volumes: Send + Sync {
    /// The names, sorted.
    fn names(&self) -> Vec<String>;

    /// The volume called `name`; for an empty name the only one there is.
    fn find(&self, name: &str) -> Option<Arc<Volume>>;
}

/// Somebody who uses a volume.
///
/// What is on the destination already, and need not be durable, [`read_now`](Self::read_now) and
/// [`write_now`](Self::write_now) do at once;
/// all else is [submitted](Self::submit), and answered when it is done, in any order.
pub struct User {
    client: Client,
    figures: Arc<Figures>,
}

impl User {
    /// Bytes of the clone.
    pub fn size_bytes(&self) -> u64 {
        self.client.size_bytes()
    }

    /// See [`Volume::block_bytes`].
    pub fn block_bytes(&self) -> u64 {
        self.client.block_bytes()
    }

    /// Reads from `offset` on, if all of it is on the destination. The calling thread does it.
    pub fn read_now(&self, offset: u64, into: &mut [u8]) -> Option<Result<(), RequestError>> {
        let len = into.len() as u64;
        self.timed(Kind::Read, len, || self.client.try_read(offset, into))
    }

    /// Writes `data` to `offset`, if nothing has to be copied for that; it is not durable then.
    /// The calling thread does it.
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
        self.figures.note(kind, true, bytes, began.elapsed(), result.is_ok());
        Some(result)
    }

    /// Asks for something without waiting for it: see [`Client::submit`], whose words on locks,
    /// threads and buffers hold here. `done` must not block: it runs on a thread that others need.
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
        let (figures, began) = (self.figures.clone(), Instant::now());
        let kind = Kind::of(operation);
        let hydrated = match self.client.hydrated(&range) {
            Some((hydrated, end)) => hydrated && end >= range.end,
            None => true,
        };
        let bytes = range.end.saturating_sub(range.start);
        figures.begin();
        self.client.submit(operation, range, durable, buffer, move |result, buffer| {
            figures.end();
            figures.note(kind, hydrated, bytes, began.elapsed(), result.is_ok());
            done(result, buffer);
        });
    }

    /// What is known of the stretch that `range` begins with: see [`Client::stretch`].
    ///
    /// # Errors
    /// Whatever a device says.
    pub fn stretch(&self, range: &ByteRange) -> io::Result<Option<Stretch>> {
        self.client.stretch(range)
    }

    /// Whether the stretch is hydrated that `range` begins with, and where that ends, in bytes: see
    /// [`Client::hydrated`].
    pub fn hydrated(&self, range: &ByteRange) -> Option<(bool, u64)> {
        self.client.hydrated(range)
    }
}
