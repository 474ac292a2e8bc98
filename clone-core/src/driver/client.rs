//! The interface for users of a clone.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;

use crate::block_io::DestinationLost;
use crate::driver::backends::is_full;
use crate::driver::workers::WorkerPool;
use crate::engine::{ByteRange, Device, Failure, Lane, Operation, RequestError};

/// A handle to use a clone: one for each thread, or for each connection.
///
/// Requests for hydrated regions that need not be durable run on the calling thread, without a
/// lock. All other requests go through the engine and the worker pool.
///
/// A suspended clone holds requests; a stopped clone refuses them. Callbacks must not make the
/// blocking calls: the call may need the thread that runs the callback.
pub struct Client {
    pool: Arc<WorkerPool>,
    lane: Lane,
    size_bytes: u64,
}

/// An extent of a clone, as it was at the time of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneExtent {
    /// True if the extent is hydrated.
    pub hydrated: bool,
    /// True if the extent is known, without reading it, to be all zeroes.
    pub zeroes: bool,
    /// End of the extent, in bytes; not past the end of the clone.
    pub end: u64,
}

impl Client {
    pub(super) fn new(pool: Arc<WorkerPool>, size_bytes: u64) -> Self {
        let lane = pool.fast_path.lane();
        Self { pool, lane, size_bytes }
    }

    /// Returns the size of the clone, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What requests should begin and end at multiples of, in bytes: see
    /// [`Destination::block_bytes`](crate::block_io::Destination::block_bytes).
    pub fn block_bytes(&self) -> u64 {
        self.pool.backends.destination.block_bytes()
    }

    /// Creates another handle to the same clone.
    pub fn another(&self) -> Self {
        Self::new(self.pool.clone(), self.size_bytes)
    }

    /// Returns the extent at the start of `range`, from the holes that source and destination
    /// report; it may end after the range. Concurrent changes may or may not be reflected. Returns
    /// `None` if the range is empty, or begins at or after the end of the clone.
    ///
    /// # Errors
    /// The error of the device that holds the region; for a hydrated region it may be
    /// [`DestinationLost`], which ends the clone.
    pub fn extent(&self, range: &ByteRange) -> io::Result<Option<CloneExtent>> {
        let Some((hydrated, end)) = self.hydrated(range) else { return Ok(None) };
        let backends = &self.pool.backends;
        let extent = match hydrated {
            true => {
                backends.destination.extent(range.start).inspect_err(|error| self.heed(error))?
            }
            false => backends.source.extent(range.start)?,
        };
        Ok(Some(CloneExtent { hydrated, zeroes: extent.zeroes, end: extent.end.min(end) }))
    }

    /// Returns whether the region at the start of `range` is hydrated, and the end, in bytes, of
    /// the run of regions in that state, at most that of the last region of the range. Returns
    /// `None` under the same conditions as [`extent`](Self::extent).
    pub fn hydrated(&self, range: &ByteRange) -> Option<(bool, u64)> {
        self.lane.run(range)
    }

    /// Fills `into` from `offset`, which is in bytes.
    ///
    /// # Errors
    /// [`RequestError::PastEnd`] if the range ends past the end of the clone,
    /// [`RequestError::Device`] or [`RequestError::Full`] if a device failed,
    /// [`RequestError::Failed`] if the clone has failed, and [`RequestError::Stopped`] if it was
    /// stopped. The content of `into` is then unspecified.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RequestError> {
        if let Some(result) = self.try_read(offset, into) {
            return result;
        }
        let range = self.range(offset, into.len())?;
        let (result, bytes) = self.ask(Operation::Read, range, false, vec![0; into.len()]);
        if result.is_ok() {
            into.copy_from_slice(&bytes);
        }
        result
    }

    /// Fills `into` from `offset` if all of the range is hydrated; returns `None` if the request
    /// has to go through [`submit`](Self::submit). Waits only for the destination.
    pub fn try_read(&self, offset: u64, into: &mut [u8]) -> Option<Result<(), RequestError>> {
        let range = self.range(offset, into.len()).ok()?;
        self.pass(&range, || self.pool.backends.destination.read_at(offset, into))
    }

    /// Writes `data` at `offset`, which is in bytes. If `durable`, returns only when the data is on
    /// the medium (FUA).
    ///
    /// # Errors
    /// As for [`read`](Self::read), and [`RequestError::ReadOnly`] if the range would have to
    /// become hydrated and the clone is read-only, or if the write could not be made durable. Any
    /// part of the data may have been written.
    pub fn write(&self, offset: u64, data: &[u8], durable: bool) -> Result<(), RequestError> {
        let passed = if durable { None } else { self.try_write(offset, data) };
        if let Some(result) = passed {
            return result;
        }
        let range = self.range(offset, data.len())?;
        self.ask(Operation::Write, range, durable, data.to_vec()).0
    }

    /// Writes `data` at `offset` if that changes only the destination; returns `None` if the
    /// request has to go through [`submit`](Self::submit).
    pub fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<(), RequestError>> {
        let range = self.range(offset, data.len()).ok()?;
        let write = || self.pool.backends.destination.write_at(offset, data);
        self.pass(&range, write).map(|done| self.still(&range, done))
    }

    /// Makes `range` read as zeroes. If `deallocate`, the destination may deallocate it.
    ///
    /// # Errors
    /// As for [`write`](Self::write). Any part of the range may have become zeroes.
    pub fn write_zeroes(
        &self,
        range: ByteRange,
        deallocate: bool,
        durable: bool,
    ) -> Result<(), RequestError> {
        let zero = || self.pool.backends.destination.zero(range.clone(), deallocate);
        let passed = if durable { None } else { self.pass(&range, zero) };
        let passed = passed.map(|done| self.still(&range, done));
        passed.unwrap_or_else(|| {
            let operation = Operation::WriteZeroes { deallocate };
            self.ask(operation, range, durable, Vec::new()).0
        })
    }

    /// Discards `range`: its content is no longer needed. If the clone is read-only, a discard that
    /// would make regions hydrated has no effect.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn discard(&self, range: ByteRange, durable: bool) -> Result<(), RequestError> {
        // The engine decides which part counts, and what it does to the destination.
        self.ask(Operation::Discard, range, durable, Vec::new()).0
    }

    /// Makes all changes durable that were answered before, to any client.
    ///
    /// # Errors
    /// [`RequestError::Device`] if the flush or the commit failed, [`RequestError::ReadOnly`] if
    /// the clone is read-only, [`RequestError::Failed`] if it has failed, and
    /// [`RequestError::Stopped`] if it was stopped. The content of the medium is then unknown.
    pub fn flush(&self) -> Result<(), RequestError> {
        self.ask(Operation::Flush, 0..0, false, Vec::new()).0
    }

    /// Copies `range` next, and waits until it is hydrated.
    ///
    /// # Errors
    /// [`RequestError::PastEnd`] if the range ends past the end of the clone,
    /// [`RequestError::NotCopied`] if a copy failed, [`RequestError::ReadOnly`] if the clone is
    /// read-only, [`RequestError::Failed`] if it has failed, and [`RequestError::Stopped`] if it
    /// was stopped.
    pub fn hydrate(&self, range: ByteRange) -> Result<(), RequestError> {
        self.ask(Operation::Hydrate, range, false, Vec::new()).0
    }

    /// Submits a request without waiting for it. `buffer` holds the data of a write, or is filled
    /// by a read; it then has the length of `range`. `done` receives the result and the buffer. It
    /// runs on a thread of the driver that holds no lock, never on the calling thread, so the
    /// caller may hold locks that `done` needs. This also holds if the clone has failed, and if it
    /// was stopped, as long as the system can start a thread for a stopped clone.
    ///
    /// This call waits only for a lock that is never held for long.
    ///
    /// A panic of `done` is caught and [counted](super::RunningClone::caught_panics); the clone and
    /// other requests continue.
    ///
    /// # Panics
    /// If the buffer of a read or a write does not have the length of `range`.
    pub fn submit(
        &self,
        operation: Operation,
        range: ByteRange,
        durable: bool,
        buffer: Vec<u8>,
        done: impl FnOnce(Result<(), RequestError>, Vec<u8>) + Send + 'static,
    ) {
        if matches!(operation, Operation::Read | Operation::Write) {
            let len = range.end.checked_sub(range.start);
            assert!(len == Some(buffer.len() as u64), "a buffer that does not fit {range:?}");
        }
        let pool = self.pool.clone();
        let guarded = move |result, buffer| pool.events.guard(|| done(result, buffer));
        self.pool.submit(operation, range, durable, buffer, Box::new(guarded));
    }

    fn ask(
        &self,
        operation: Operation,
        range: ByteRange,
        durable: bool,
        buffer: Vec<u8>,
    ) -> (Result<(), RequestError>, Vec<u8>) {
        let (done, wait) = mpsc::sync_channel(1);
        self.submit(operation, range, durable, buffer, move |result, buffer| {
            // The caller is waiting for it.
            let _ = done.send((result, buffer));
        });
        wait.recv().expect("every request is answered")
    }

    /// Returns the result of a change made on the destination alone: it fails if the regions have
    /// lost their bits meanwhile, since no read will then see the change.
    fn still(&self, range: &ByteRange, done: Result<(), RequestError>) -> Result<(), RequestError> {
        if self.lane.is_hydrated(range) { done } else { Err(RequestError::ReadOnly) }
    }

    /// Performs `act` on the destination alone, if `range` may use the fast path.
    fn pass(
        &self,
        range: &ByteRange,
        act: impl FnOnce() -> io::Result<()>,
    ) -> Option<Result<(), RequestError>> {
        let _pass = self.lane.pass(range)?;
        Some(act().map_err(|error| {
            self.heed(&error);
            match is_full(&error) {
                true => RequestError::Full(Device::Destination),
                false => RequestError::Device(Device::Destination),
            }
        }))
    }

    /// Fails the clone if the destination has lost its data.
    fn heed(&self, error: &io::Error) {
        if DestinationLost::of(error).is_some() {
            let reason = error.to_string();
            self.pool.fail(Failure { device: Device::Destination, reason, is_full: false });
        }
    }

    fn range(&self, offset: u64, len: usize) -> Result<ByteRange, RequestError> {
        let end = offset.checked_add(len as u64).ok_or(RequestError::PastEnd)?;
        Ok(offset..end)
    }
}
