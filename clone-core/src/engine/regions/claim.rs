//! Claims: regions that are becoming hydrated, by a copy or by a request that overwrites them.
//!
//! `plan.rs` and `copying.rs` add claims and end them.
//!
//! *Invariants:* claims do not overlap. A region that is not hydrated is written to on the
//! destination only by the claim that holds it, and its bit is set only at the end of that claim.
//! Any other change to the region waits for the end of the claim, or is laid over the data that is
//! copied.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::engine::api::action::{BufferId, OpId, OverlayBytes};
use crate::engine::api::input::Failure;
use crate::engine::api::request::{ByteRange, RequestId};
use crate::engine::work::window::Sample;
use crate::geometry::RegionRange;

/// Identifies a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) struct ClaimId(u64);

/// A part of a request.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Part {
    pub(in crate::engine) request: RequestId,
    pub(in crate::engine) range: ByteRange,
}

/// Regions that are becoming hydrated.
#[derive(Debug)]
pub(in crate::engine) struct Claim {
    pub(in crate::engine) regions: RegionRange,
    pub(in crate::engine) work: Work,
    /// Parts of requests to plan again when the claim ends, in order of arrival.
    pub(in crate::engine) waiters: Vec<Part>,
}

/// The way in which the regions of a claim become hydrated.
#[derive(Debug)]
pub(in crate::engine) enum Work {
    /// A request overwrites all of their bytes.
    Overwrite,
    /// They are copied from the source.
    Copy(RegionCopy),
}

/// A copy of regions; a large copy has several chunks.
#[derive(Debug)]
pub(in crate::engine) struct RegionCopy {
    pub(in crate::engine) reason: CopyReason,
    /// Current priority; it only rises.
    pub(in crate::engine) priority: Priority,
    /// True if no further chunk begins and the regions stay as they are. Set when no user waits for
    /// the copy and the clone is being suspended, or hydration was switched off.
    pub(in crate::engine) is_cancelled: bool,
    /// Time at which the copy began.
    pub(in crate::engine) since: Duration,
    /// Number of regions at that time.
    pub(in crate::engine) nr_begun: u64,
    /// All bytes of the copy. The end moves when the source reports a hole.
    pub(in crate::engine) range: ByteRange,
    /// End of the last chunk that has begun.
    pub(in crate::engine) begun: u64,
    pub(in crate::engine) chunks: Vec<Chunk>,
    /// Changes that requests lay over the copy, in order of arrival.
    pub(in crate::engine) overlays: Vec<LaidOver>,
    /// The first failure. No further chunk begins after it.
    pub(in crate::engine) failure: Option<Failure>,
}

/// The reason for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum CopyReason {
    /// A request that changes part of a region waits for it.
    Demand,
    /// Hydration on read, or readahead.
    Read,
    /// A hydrate request, which may wait for the end of the copy.
    Prefetch(Option<RequestId>),
    /// Background hydration.
    Background,
}

impl CopyReason {
    /// Returns the initial priority of the copy.
    pub(in crate::engine) fn priority(self) -> Priority {
        match self {
            Self::Demand => Priority::Demand,
            Self::Read | Self::Prefetch(Some(_)) => Priority::User,
            Self::Prefetch(None) | Self::Background => Priority::Background,
        }
    }

    /// Returns true if the copy counts against the window of the source: the bytes in flight that
    /// no user reads are limited to what keeps the line busy.
    pub(in crate::engine) fn is_bulk(self) -> bool {
        matches!(self, Self::Prefetch(_) | Self::Background)
    }

    /// Returns true if the copy counts against the hydration limit.
    pub(in crate::engine) fn has_limit(self) -> bool {
        matches!(self, Self::Background | Self::Prefetch(None))
    }
}

/// The priority of a copy, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Priority {
    /// A request that changes data waits for the end of the claim. Such copies have their own share
    /// of the buffers.
    Demand,
    /// A user waits for the data, or for the region to become hydrated.
    User,
    /// No user waits. Such copies keep to the hydration rate and give way to users.
    Background,
}

/// The part of a copy that one buffer holds.
#[derive(Debug)]
pub(in crate::engine) struct Chunk {
    pub(in crate::engine) copy: BufferId,
    /// The operation in flight: the fetch from the source, then the store.
    pub(in crate::engine) op: OpId,
    /// The start of the fetch and the bytes that the source had delivered by then.
    pub(in crate::engine) sample: Sample,
    /// The share of memory that the buffer counts against.
    pub(in crate::engine) share: Priority,
    /// True if the chunk counts as background work in flight.
    pub(in crate::engine) is_background: bool,
    /// True if the chunk was charged to the rate.
    pub(in crate::engine) is_paid: bool,
    /// The bytes that the chunk writes. It takes no overlay once it is being stored.
    pub(in crate::engine) range: ByteRange,
    /// Size of the buffer, in bytes.
    pub(in crate::engine) room: u64,
    pub(in crate::engine) state: ChunkState,
}

/// The state of a chunk.
#[derive(Debug)]
pub(in crate::engine) enum ChunkState {
    /// Being read from the source; these reads wait for the data.
    Fetching(Vec<Part>),
    /// Being written to the destination; its data can no longer change.
    Storing,
    /// Completed or failed.
    Ended,
}

/// A part of a request that is written together with the rest of its region.
#[derive(Clone, Debug)]
pub(in crate::engine) struct LaidOver {
    pub(in crate::engine) part: Part,
    pub(in crate::engine) bytes: OverlayBytes,
}

impl RegionCopy {
    /// Creates a copy of the bytes `range`, with no chunk begun.
    pub(in crate::engine) fn new(
        reason: CopyReason,
        since: Duration,
        nr_begun: u64,
        range: ByteRange,
    ) -> Self {
        let begun = range.start;
        Self {
            reason,
            priority: reason.priority(),
            is_cancelled: false,
            since,
            nr_begun,
            range,
            begun,
            chunks: Vec::new(),
            overlays: Vec::new(),
            failure: None,
        }
    }

    /// Returns true if no further chunk will begin.
    pub(in crate::engine) fn is_begun(&self) -> bool {
        self.begun == self.range.end || self.failure.is_some() || self.is_cancelled
    }

    /// Returns true if a change to `range` can be laid over the copy: no byte of it is being
    /// stored.
    pub(in crate::engine) fn takes_overlay(&self, range: &ByteRange) -> bool {
        let is_free = |chunk: &Chunk| {
            matches!(chunk.state, ChunkState::Fetching(_)) || !overlap(&chunk.range, range)
        };
        self.failure.is_none() && !self.is_cancelled && self.chunks.iter().all(is_free)
    }

    /// Returns the chunk that is being fetched and contains the byte at `offset`, with its end.
    pub(in crate::engine) fn fetching(&mut self, offset: u64) -> Option<(&mut Chunk, u64)> {
        self.chunks.iter_mut().find_map(|chunk| {
            let is_it =
                matches!(chunk.state, ChunkState::Fetching(_)) && chunk.range.contains(&offset);
            let end = chunk.range.end;
            is_it.then_some((chunk, end))
        })
    }

    /// Returns the chunk with the buffer `copy`.
    pub(in crate::engine) fn chunk(&mut self, copy: BufferId) -> &mut Chunk {
        let found = self.chunks.iter_mut().find(|chunk| chunk.copy == copy);
        found.expect("a chunk stays until its claim ends")
    }

    /// Returns true if no chunk is in flight.
    pub(in crate::engine) fn is_idle(&self) -> bool {
        self.chunks.iter().all(|chunk| matches!(chunk.state, ChunkState::Ended))
    }
}

/// Returns true if two ranges have a byte in common.
pub(in crate::engine) fn overlap(a: &ByteRange, b: &ByteRange) -> bool {
    a.start < b.end && b.start < a.end
}

/// All claims.
#[derive(Debug, Default)]
pub(in crate::engine) struct Claims {
    by_id: HashMap<ClaimId, Claim>,
    by_start: BTreeMap<u64, ClaimId>,
    /// Total number of claimed regions.
    nr_regions: u64,
    next: u64,
}

impl Claims {
    /// Claims `regions`, none of which may be claimed already.
    pub(in crate::engine) fn add(&mut self, regions: RegionRange, work: Work) -> ClaimId {
        assert!(regions.start < regions.end, "a claim of nothing");
        let id = ClaimId(self.next);
        self.next += 1;
        assert!(self.next_from(regions.start) >= regions.end && self.at(regions.start).is_none());
        self.nr_regions += regions.end - regions.start;
        self.by_start.insert(regions.start, id);
        self.by_id.insert(id, Claim { regions, work, waiters: Vec::new() });
        id
    }

    /// Extends a claim to the regions up to `end`, none of which may be claimed already.
    pub(in crate::engine) fn extend(&mut self, id: ClaimId, end: u64) {
        let regions = self.get(id).regions.clone();
        assert!(regions.end <= end && self.next_from(regions.end) >= end, "claims overlap");
        self.nr_regions += end - regions.end;
        self.get(id).regions.end = end;
    }

    /// Ends a claim and returns it.
    pub(in crate::engine) fn remove(&mut self, id: ClaimId) -> Claim {
        let claim = self.by_id.remove(&id).expect("a claim ends once");
        self.by_start.remove(&claim.regions.start);
        self.nr_regions -= claim.regions.end - claim.regions.start;
        claim
    }

    /// Returns a claim that has not ended.
    pub(in crate::engine) fn get(&mut self, id: ClaimId) -> &mut Claim {
        self.by_id.get_mut(&id).expect("a claim stays while its operations are under way")
    }

    /// Returns the copy of a claim that copies.
    pub(in crate::engine) fn copy(&mut self, id: ClaimId) -> &mut RegionCopy {
        match &mut self.get(id).work {
            Work::Copy(copy) => copy,
            Work::Overwrite => unreachable!("an overwrite has no chunks"),
        }
    }

    /// Returns the claim that holds `region`, and the end of the claim.
    pub(in crate::engine) fn at(&self, region: u64) -> Option<(ClaimId, u64)> {
        let (_, id) = self.by_start.range(..=region).next_back()?;
        let end = self.by_id[id].regions.end;
        (region < end).then_some((*id, end))
    }

    /// Returns the start of the first claim at or after `region`; `u64::MAX` if there is none.
    pub(in crate::engine) fn next_from(&self, region: u64) -> u64 {
        self.by_start.range(region..).next().map_or(u64::MAX, |(&start, _)| start)
    }

    /// Returns the number of claimed regions.
    pub(in crate::engine) fn nr_regions(&self) -> u64 {
        self.nr_regions
    }

    /// Returns true if there are no claims.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns all copies, lowest region first.
    pub(in crate::engine) fn copies(&self) -> impl Iterator<Item = (ClaimId, &RegionCopy)> {
        self.by_start.values().filter_map(|id| match &self.by_id[id].work {
            Work::Copy(copy) => Some((*id, copy)),
            Work::Overwrite => None,
        })
    }
}
