//! The memory of copies, and who waits for a part of it.

use std::collections::VecDeque;

use crate::engine::regions::claim::{ClaimId, Priority};

/// How far a hole is followed in one go, at first and at the most: a user who writes there has to
/// wait for it, and not every destination can make a hole without writing all of it.
pub(in crate::engine) const HOLE_BYTES: (u64, u64) = (64 << 20, 1 << 30);

/// Bytes that are in buffers, for what users wait for and for everything else: neither can starve
/// the other.
#[derive(Debug)]
pub(in crate::engine) struct Buffers {
    pub(in crate::engine) demand: Share,
    pub(in crate::engine) other: Share,
    /// Of `other`, what nobody waits for.
    pub(in crate::engine) background_bytes: u64,
    /// What is under way, in either share, for data that nobody reads.
    pub(in crate::engine) bulk_bytes: u64,
    /// Copies of nobody with chunks that found no room, or have to be patient.
    pub(in crate::engine) background_stalled: VecDeque<ClaimId>,
    /// How far a hole is followed.
    pub(in crate::engine) hole_bytes: u64,
}

#[derive(Debug, Default)]
pub(in crate::engine) struct Share {
    pub(in crate::engine) bytes: u64,
    /// Copies that users wait for with chunks that found no room, in the order in which they came.
    pub(in crate::engine) stalled: VecDeque<ClaimId>,
}

impl Default for Buffers {
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

impl Buffers {
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
