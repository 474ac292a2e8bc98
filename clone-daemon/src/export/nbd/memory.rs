//! Accounting for the buffers of all connections of a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of bytes in use. Submitted requests share a limited amount. A connection that gets
/// nothing of it continues with its own buffers, one piece after another.
#[derive(Debug)]
pub(super) struct Memory {
    shared: AtomicU64,
    shared_max: u64,
    own: AtomicU64,
}

/// A number of bytes in use, until this is dropped.
#[derive(Debug)]
pub(super) struct MemoryLease {
    memory: Arc<Memory>,
    bytes: u64,
    is_own: bool,
}

impl Memory {
    pub(super) fn new(shared_max: u64) -> Arc<Self> {
        Arc::new(Self { shared: AtomicU64::new(0), shared_max, own: AtomicU64::new(0) })
    }

    /// Reserves memory for the buffer of a request; `None` if too much is in use.
    pub(super) fn lease(self: &Arc<Self>, bytes: u64) -> Option<MemoryLease> {
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        let add = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.shared_max);
        self.shared.fetch_update(set, get, add).ok()?;
        Some(MemoryLease { memory: self.clone(), bytes, is_own: false })
    }

    /// Returns an empty lease for the buffers of a connection, which have limits of their own.
    pub(super) fn own(self: &Arc<Self>) -> MemoryLease {
        MemoryLease { memory: self.clone(), bytes: 0, is_own: true }
    }

    /// Returns the number of bytes in use.
    pub(super) fn used(&self) -> u64 {
        let (shared, own) = (&self.shared, &self.own);
        shared.load(Ordering::Relaxed).saturating_add(own.load(Ordering::Relaxed))
    }
}

impl MemoryLease {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Records that the buffers of a connection have grown.
    pub(super) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.memory.own.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let used = if self.is_own { &self.memory.own } else { &self.memory.shared };
        used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
