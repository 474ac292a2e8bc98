//! Settings of a clone.

use crate::dm_target::Options;

/// All settings of a clone besides its geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The options of a table line.
    pub options: Options,
    /// Maximum background copy rate, in bytes per second; `None` for no limit.
    pub hydration_rate: Option<u64>,
    /// True if reads hydrate the regions that they read.
    pub hydrate_on_read: bool,
    /// Number of consecutive failed copies after which hydration stops; 0 for never. A failed copy
    /// of several regions is retried in halves, which do not count until they are single regions.
    pub max_failures: u32,
    /// Effect of a discard of regions that are not hydrated.
    pub discards: Discards,
    /// Maximum size of a copy buffer, in bytes, regardless of the batch size. Rounded down to a
    /// power of two; at least 64 KiB.
    pub copy_bytes: u64,
    /// Maximum number of such buffers for hydration and reads; writes may use as many again. If
    /// copies are smaller, there may be more of them.
    pub copies: u32,
}

/// Effect of a discard of regions that are not hydrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discards {
    /// The regions read as zeroes afterwards. A short last region counts as covered by a discard
    /// that ends at the end of the clone.
    Zero,
    /// As in the kernel target: the regions are marked as hydrated whatever the destination holds,
    /// and a short last region is never covered.
    AsKernel,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            options: Options::default(),
            hydration_rate: None,
            hydrate_on_read: false,
            max_failures: 16,
            discards: Discards::Zero,
            copy_bytes: 4 << 20,
            copies: 4,
        }
    }
}
