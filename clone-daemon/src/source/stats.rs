//! Counters of a remote source.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a remote source since it was opened.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Requests started.
    pub requests: AtomicU64,
    /// Requests that retried a failed one.
    pub retries: AtomicU64,
    /// Bytes read successfully.
    pub bytes: AtomicU64,
    /// Reads, or pieces of reads, that failed for good.
    pub failures: AtomicU64,
    /// Requests in flight.
    pub in_flight: AtomicU64,
    /// Maximum number of requests in flight at the same time.
    pub in_flight_max: AtomicU64,
}

impl SourceStats {
    pub(super) fn add(counter: &AtomicU64, value: u64) {
        counter.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn begin(&self) {
        Self::add(&self.requests, 1);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_flight_max.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
