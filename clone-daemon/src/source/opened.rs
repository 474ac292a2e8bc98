//! An open source, and the handle of a remote one.

use std::io;
use std::sync::Arc;

use clone_core::block_io::{ReadData, Source};
use clone_core::dm_target::DeviceLimits;
use clone_core::geometry::{SECTOR_SIZE, Sectors};

use super::identity::{Identity, Version};
use super::stats::SourceStats;

/// An open source.
pub struct Opened {
    /// The data.
    pub source: Arc<dyn Source>,
    /// Identity, to be [pinned](super::pin).
    pub identity: Identity,
    /// Size and block size, for the checks of a clone.
    pub limits: DeviceLimits,
    /// Handle of a remote source; `None` for a local one.
    pub remote: Option<RemoteHandle>,
}

impl Opened {
    /// Returns a placeholder for the source of a complete clone. Every read fails.
    pub fn absent(size: Sectors) -> Self {
        let size_bytes = size.0.saturating_mul(SECTOR_SIZE);
        let limits = DeviceLimits { size, logical_block_size: SECTOR_SIZE };
        let identity = Identity { size_bytes, version: Version::Unknown };
        Self { source: Arc::new(Absent(size_bytes)), identity, limits, remote: None }
    }

    /// Returns whether the source is remote.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }
}

/// A missing source, with its size in bytes.
struct Absent(u64);

impl ReadData for Absent {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::NotFound, "the source no longer exists"))
    }
}

impl Source for Absent {}

/// Controls a remote source.
#[derive(Clone)]
pub struct RemoteHandle {
    /// Counters of the source.
    pub stats: Arc<SourceStats>,
    abandon: Arc<dyn Fn() + Send + Sync>,
}

impl RemoteHandle {
    pub(super) fn new(stats: Arc<SourceStats>, abandon: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { stats, abandon }
    }

    /// Aborts requests in flight. All reads fail soon, now and later. A clone that stops calls
    /// this, so that it does not wait for a source that does not answer.
    pub fn abandon(&self) {
        (self.abandon)();
    }
}
