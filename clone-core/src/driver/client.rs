//! A clone for those who use it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;

use crate::block_io::DestinationLost;
use crate::driver::backends::is_full;
use crate::driver::workers::Crew;
use crate::engine::{ByteRange, Device, Failure, Lane, Operation, RequestError};

/// Somebody who uses a clone: one for each thread, or for each connection.
///
/// What is on the destination already is done by the calling thread itself, without a lock, if it
/// need not be durable. All else goes through the engine, and the threads of the driver do it.
///
/// A clone that is suspended keeps requests waiting; one that was stopped refuses them. The
/// blocking calls must not be made by a callback: the thread that runs it may be the one that is
/// needed.
pub struct Client {
    crew: Arc<Crew>,
    lane: Lane,
    size_bytes: u64,
}

/// A stretch of a clone, as it was when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whether it is hydrated.
    pub hydrated: bool,
    /// Whether it is known, without being read, to be all zeroes.
    pub zeroes: bool,
    /// Where it ends, in bytes; not past the end of the clone.
    pub end: u64,
}

impl Client {
    pub(super) fn new(crew: Arc<Crew>, size_bytes: u64) -> Self {
        let lane = crew.front.lane();
        Self { crew, lane, size_bytes }
    }

    /// Bytes of the clone.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What requests should begin and end at multiples of, in bytes: see
    /// [`Destination::block_bytes`](crate::block_io::Destination::block_bytes).
    pub fn block_bytes(&self) -> u64 {
        self.crew.hands.destination.block_bytes()
    }

    /// Somebody else who uses the same clone.
    pub fn another(&self) -> Self {
        Self::new(self.crew.clone(), self.size_bytes)
    }

    /// The stretch that `range` begins with, by what source and destination know of their holes;
    /// it may end after the range. What changes meanwhile may or may not be seen. `None` if the
    /// range is empty, or begins at the end of the clone or after it.
    ///
    /// # Errors
    /// Whatever a device says.
    pub fn stretch(&self, range: &ByteRange) -> io::Result<Option<Stretch>> {
        let Some((hydrated, end)) = self.hydrated(range) else { return Ok(None) };
        let hands = &self.crew.hands;
        let extent = match hydrated {
            true => hands.destination.extent(range.start).inspect_err(|error| self.heed(error))?,
            false => hands.source.extent(range.start)?,
        };
        Ok(Some(Stretch { hydrated, zeroes: extent.zeroes, end: extent.end.min(end) }))
    }

    /// Whether the region is hydrated that `range` begins in, and where that ends, in bytes, or
    /// the regions that the range is in; `None` as for [`stretch`](Self::stretch).
    pub fn hydrated(&self, range: &ByteRange) -> Option<(bool, u64)> {
        self.lane.run(range)
    }

    /// Reads from `offset` on.
    ///
    /// # Errors
    /// [`RequestError`]. What `into` holds then is unspecified.
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

    /// Reads from `offset` on, if all of it is on the destination; `None` if
    /// [`submit`](Self::submit) has to do it. This does not wait for anything but the destination.
    pub fn try_read(&self, offset: u64, into: &mut [u8]) -> Option<Result<(), RequestError>> {
        let range = self.range(offset, into.len()).ok()?;
        self.pass(&range, || self.crew.hands.destination.read_at(offset, into))
    }

    /// Writes `data` to `offset`; `durable` waits until it is on the medium (FUA).
    ///
    /// # Errors
    /// [`RequestError`]. Any part of it may have been written then.
    pub fn write(&self, offset: u64, data: &[u8], durable: bool) -> Result<(), RequestError> {
        let passed = if durable { None } else { self.try_write(offset, data) };
        if let Some(result) = passed {
            return result;
        }
        let range = self.range(offset, data.len())?;
        self.ask(Operation::Write, range, durable, data.to_vec()).0
    }

    /// Writes `data` to `offset`, if it goes to the destination and nowhere else; `None` if
    /// [`submit`](Self::submit) has to do it.
    pub fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<(), RequestError>> {
        let range = self.range(offset, data.len()).ok()?;
        let write = || self.crew.hands.destination.write_at(offset, data);
        self.pass(&range, write).map(|done| self.still(&range, done))
    }

    /// Makes `range` read as zeroes; `deallocate` lets the destination give up the room.
    ///
    /// # Errors
    /// [`RequestError`]. Any part of it may be zeroes then.
    pub fn write_zeroes(
        &self,
        range: ByteRange,
        deallocate: bool,
        durable: bool,
    ) -> Result<(), RequestError> {
        let zero = || self.crew.hands.destination.zero(range.clone(), deallocate);
        let passed = if durable { None } else { self.pass(&range, zero) };
        let passed = passed.map(|done| self.still(&range, done));
        passed.unwrap_or_else(|| {
            let operation = Operation::WriteZeroes { deallocate };
            self.ask(operation, range, durable, Vec::new()).0
        })
    }

    /// Says that `range` is needed no more.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn discard(&self, range: ByteRange, durable: bool) -> Result<(), RequestError> {
        // Which part of it counts, and where it goes, the engine knows.
        self.ask(Operation::Discard, range, durable, Vec::new()).0
    }

    /// Makes durable all that was answered before, to whomever.
    ///
    /// # Errors
    /// [`RequestError`]. Nobody knows then what is on the medium.
    pub fn flush(&self) -> Result<(), RequestError> {
        self.ask(Operation::Flush, 0..0, false, Vec::new()).0
    }

    /// Has `range` copied next, and waits until it is.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn hydrate(&self, range: ByteRange) -> Result<(), RequestError> {
        self.ask(Operation::Hydrate, range, false, Vec::new()).0
    }

    /// Asks for something without waiting for it. `buffer` is what a write writes, and what a read
    /// fills; both have the length of `range`. `done` gets it back, with the outcome. It is called
    /// by a thread of the driver that has no lock, never by this one: so whoever calls this may
    /// hold locks that `done` wants. That holds for a clone too that has failed or was stopped,
    /// as long as the system gives a thread to one that was stopped.
    ///
    /// This waits for nothing but a lock that is never held for long.
    ///
    /// A panic of `done` is caught and [counted](super::RunningClone::caught_panics); the clone and
    /// other requests go on.
    ///
    /// # Panics
    /// If the buffer of a read or a write has another length.
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
        let crew = self.crew.clone();
        let guarded = move |result, buffer| crew.notices.guard(|| done(result, buffer));
        self.crew.submit(operation, range, durable, buffer, Box::new(guarded));
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
            // Whoever asked waits for it.
            let _ = done.send((result, buffer));
        });
        wait.recv().expect("every request is answered")
    }

    /// What came of a change that was made on the destination alone: it will not be seen if the
    /// regions have been taken back meanwhile.
    fn still(&self, range: &ByteRange, done: Result<(), RequestError>) -> Result<(), RequestError> {
        if self.lane.is_hydrated(range) { done } else { Err(RequestError::ReadOnly) }
    }

    /// Does something with the destination alone, if it may be.
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

    /// Ends the clone if the destination has lost what was on it.
    fn heed(&self, error: &io::Error) {
        if DestinationLost::of(error).is_some() {
            let reason = error.to_string();
            self.crew.fail(Failure { device: Device::Destination, reason, is_full: false });
        }
    }

    fn range(&self, offset: u64, len: usize) -> Result<ByteRange, RequestError> {
        let end = offset.checked_add(len as u64).ok_or(RequestError::PastEnd)?;
        Ok(offset..end)
    }
}
