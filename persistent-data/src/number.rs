//! Numbers that carry their unit.

use std::fmt;

/// Bytes in a metadata block.
pub const BLOCK_SIZE: usize = 4096;

/// Index of a 4096-byte metadata block, counted from the start of the metadata device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNr(pub u64);

impl BlockNr {
    /// Returns the number of the block that is `blocks` further on.
    ///
    /// The sum saturates: `u64::MAX` is out of range on every device and is rejected as such.
    pub fn plus(self, blocks: u64) -> Self {
        Self(self.0.saturating_add(blocks))
    }
}

impl fmt::Display for BlockNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
