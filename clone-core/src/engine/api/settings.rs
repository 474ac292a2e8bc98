//! What can be set on a clone.

use crate::dm_target::Options;

/// All that can be set on a clone beside its geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What a table line can say.
    pub options: Options,
    /// The most bytes a second that hydration copies in the background; `None` for no limit.
    pub hydration_rate: Option<u64>,
    /// Whether reads of regions that are not hydrated hydrate them.
    pub hydrate_on_read: bool,
    /// After so many failed copies in a row hydration stops; 0 for never. What failed as a whole is
    /// tried again in halves, which do not count until they are single regions.
    pub max_failures: u32,
    /// What a discard of regions that are not hydrated does.
    pub discards: Discards,
    /// The most bytes that are copied in one go, whatever the batch size is: buffers are no larger.
    /// Rounded down to a power of two, 64 KiB or more.
    pub copy_bytes: u64,
    /// How many such buffers there may be for what hydration and reads copy, and as many again for
    /// what writes wait for. Smaller copies are more in number.
    pub copies: u32,
}

/// What a discard of regions that are not hydrated does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discards {
    /// They read as zeroes afterwards, and a short last region counts as covered by a discard that
    /// goes up to the end of the clone.
    Zero,
    /// What the kernel target does: they are called hydrated, whatever the destination holds there,
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
