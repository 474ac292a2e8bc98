//! The budget of copy buffers, and the copies that wait for a part of it.
//!
//! The engine decides on copies within this budget; the driver holds the memory itself.

use std::collections::VecDeque;

use crate::engine::regions::claim::{ClaimId, Priority};

/// Initial and maximum number of bytes by which a copy is extended into a hole of the source. A
/// user who writes there waits for the whole hole, and some destinations have to write zeroes to
/// it.
pub(in crate::engine) const HOLE_BYTES: (u64, u64) = (64 << 20, 1 << 30);

/// Bytes in buffers, in two shares: one for copies that a change waits for ([`Priority::Demand`]),
/// one for all other copies. Neither share can starve the other.
#[derive(Debug)]
pub(in crate::engine) struct BufferBudget {
    pub(in crate::engine) demand: Share,
    pub(in crate::engine) other: Share,
    /// The part of `other` used by copies that no user waits for.
    pub(in crate::engine) background_bytes: u64,
    /// Bytes in flight, in either share, that no user reads.
    pub(in crate::engine) bulk_bytes: u64,
    /// Background copies whose chunks found no room, or have to be paced.
    pub(in crate::engine) background_stalled: VecDeque<ClaimId>,
    /// Current limit for the extension of a copy into a hole, in bytes.
    pub(in crate::engine) hole_bytes: u64,
}

#[derive(Debug, Default)]
pub(in crate::engine) struct Share {
    pub(in crate::engine) bytes: u64,
    /// Copies that users wait for and whose chunks found no room, in order of arrival.
    pub(in crate::engine) stalled: VecDeque<ClaimId>,
}

impl Default for BufferBudget {
    fn default() -> Self {
        Self {
            demand: Share::default(),
            other: Share::default(),
            background_bytes: 0,
            bulk_bytes: 0,
            background_stalled: VecDeque::new(),
            hole_bytes: HOLE_BYTES.0,
        }
    }
}

impl BufferBudget {
    pub(in crate::engine) fn share(&mut self, priority: Priority) -> &mut Share {
        match priority {
            Priority::Demand => &mut self.demand,
            Priority::User | Priority::Background => &mut self.other,
        }
    }

    pub(in crate::engine) fn stalled(&mut self, priority: Priority) -> &mut VecDeque<ClaimId> {
        match priority {
            Priority::Demand | Priority::User => &mut self.share(priority).stalled,
            Priority::Background => &mut self.background_stalled,
        }
    }
}
