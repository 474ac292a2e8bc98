//! The number of log lines that could not be written. The log counts them, and the metrics report
//! them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of lost lines. It is global because there is one stderr.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts a lost line.
pub(crate) fn add() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// Returns the number of lines lost since the process started.
pub(crate) fn count() -> u64 {
    LOST.load(Ordering::Relaxed)
}
