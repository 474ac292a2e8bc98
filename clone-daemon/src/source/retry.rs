//! Turns a [`Remote`] into a [`Source`] for clones: splits reads and applies the retry policy.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use clone_core::block_io::ReadData;
use clone_core::block_io::{Extent, Source};
use clone_core::sync::lock;

use super::options::SourceOptions;
use super::remote::Remote;
use super::retry_policy::{EndReason, Operation, RetryPolicy};
use super::stats::SourceStats;

/// A [`Remote`] whose requests are retried where that may help.
///
/// - No read takes longer than [`SourceOptions::give_up_after`] plus the slack of the remote.
/// - Once the source has changed, or was [abandoned](Self::abandon), every read fails.
/// - A long read becomes several requests at the same time.
pub struct RetryingSource<R> {
    remote: R,
    policy: RetryPolicy,
    request_bytes: usize,
}

impl<R: Remote> RetryingSource<R> {
    /// Wraps `remote`. `place` is its name in errors.
    pub fn new(remote: R, place: impl Into<String>, options: &SourceOptions) -> Self {
        Self::with_policy(remote, RetryPolicy::new(place.into(), options), options)
    }

    pub(super) fn with_policy(remote: R, policy: RetryPolicy, options: &SourceOptions) -> Self {
        Self { remote, policy, request_bytes: options.request_bytes.max(4096) }
    }

    /// Returns the counters.
    pub fn stats(&self) -> &Arc<SourceStats> {
        &self.policy.stats
    }

    /// Aborts requests in flight. All reads fail soon, now and later.
    pub fn abandon(&self) {
        self.policy.end(EndReason::Abandoned);
        self.remote.abandon();
    }

    fn read_piece(&self, offset: u64, into: &mut [u8], deadline: Instant) -> io::Result<()> {
        let len = into.len() as u64;
        let operation = Operation::Read(offset..offset.saturating_add(len));
        self.policy
            .run(&operation, deadline, |deadline| self.remote.read_at(offset, into, deadline))?;
        SourceStats::add(&self.policy.stats.bytes, len);
        Ok(())
    }

    /// Reads with several requests at the same time, on threads that exist only for this read:
    /// starting a thread is cheap compared to a request.
    fn read_pieces(&self, offset: u64, into: &mut [u8], deadline: Instant) -> io::Result<()> {
        let count = into.len().div_ceil(self.request_bytes);
        let pieces = Mutex::new(into.chunks_mut(self.request_bytes).enumerate());
        let failed: Mutex<Option<io::Error>> = Mutex::default();
        let work = || {
            while lock(&failed).is_none() {
                let Some((at, piece)) = lock(&pieces).next() else { return };
                let start = offset + at as u64 * self.request_bytes as u64;
                if let Err(error) = self.read_piece(start, piece, deadline) {
                    lock(&failed).get_or_insert(error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..count.min(self.policy.requests_max()) {
                let thread = thread::Builder::new().name("source".into());
                // Without the thread there are fewer requests at the same time.
                if thread.spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A changed source takes precedence over other errors.
        match self.policy.ended().or(failed) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl<R: Remote> ReadData for RetryingSource<R> {
    fn size_bytes(&self) -> u64 {
        self.remote.size_bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let (len, size_bytes) = (into.len() as u64, self.size_bytes());
        if offset.checked_add(len).is_none_or(|end| end > size_bytes) {
            let text = format!("{len} bytes from {offset} on reach past the end at {size_bytes}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let deadline = self.policy.deadline(&Operation::Read(0..0));
        match into.len() {
            0 => Ok(()),
            len if len <= self.request_bytes => self.read_piece(offset, into, deadline),
            _ => self.read_pieces(offset, into, deadline),
        }
    }
}

impl<R: Remote> Source for RetryingSource<R> {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let operation = Operation::Extent(offset);
        self.policy.run(&operation, self.policy.deadline(&operation), |deadline| {
            self.remote.extent(offset, deadline)
        })
    }
}
