//! What is counted of a remote source.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted of a remote source, since it was opened.
#[derive(Debug, Default)]
pub struct SourceFigures {
    /// Requests that were begun.
    pub requests: AtomicU64,
    /// Those of them that tried again what had failed.
    pub retries: AtomicU64,
    /// Bytes that were read, and are right.
    pub bytes: AtomicU64,
    /// What was given up: reads, or pieces of them, that failed for good.
    pub failures: AtomicU64,
    /// Requests that are under way.
    pub in_flight: AtomicU64,
    /// The most that there have been at a time.
    pub in_flight_max: AtomicU64,
}

impl SourceFigures {
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
