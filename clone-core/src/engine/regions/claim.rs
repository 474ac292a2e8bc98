//! Regions that are being made hydrated.
//!
//! *Invariants:* claims do not overlap. A region that is not hydrated is written to on the
//! destination only by the claim that holds it, and its bit is set only at the end of that claim.
//! Whatever else wants to change it waits there, or is laid over what is being copied.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::engine::api::action::{CopyId, OpId, OverlayBytes};
use crate::engine::api::event::Failure;
use crate::engine::api::request::{ByteRange, RequestId};
use crate::engine::work::window::Sample;
use crate::geometry::RegionRange;

/// Names a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) struct ClaimId(u64);

/// A part of a request.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Part {
    pub(in crate::engine) request: RequestId,
    pub(in crate::engine) range: ByteRange,
}

/// Regions that are being made hydrated.
#[derive(Debug)]
pub(in crate::engine) struct Claim {
    pub(in crate::engine) regions: RegionRange,
    pub(in crate::engine) work: Work,
    /// What has to be planned anew when the claim ends, in the order in which it came.
    pub(in crate::engine) waiters: Vec<Part>,
}

/// How the regions of a claim become hydrated.
#[derive(Debug)]
pub(in crate::engine) enum Work {
    /// A request gives them all of their bytes.
    Overwrite,
    /// They are copied.
    Copy(Copy),
}

/// Regions being copied, in chunks if they are large.
#[derive(Debug)]
pub(in crate::engine) struct Copy {
    pub(in crate::engine) why: Why,
    /// Who waits for it now; it only rises.
    pub(in crate::engine) priority: Priority,
    /// Nothing more of it is begun, and its regions stay as they are: nobody waits for it, and the
    /// clone is being suspended or hydration was switched off.
    pub(in crate::engine) is_cancelled: bool,
    /// When it was begun.
    pub(in crate::engine) since: Duration,
    /// How many regions were begun then.
    pub(in crate::engine) nr_begun: u64,
    /// All of its bytes; the end moves when the source tells of a hole.
    pub(in crate::engine) range: ByteRange,
    /// Where the chunks end that have been begun.
    pub(in crate::engine) begun: u64,
    pub(in crate::engine) chunks: Vec<Chunk>,
    /// What requests write over it, in the order in which they came.
    pub(in crate::engine) overlays: Vec<LaidOver>,
    /// The first thing that went wrong. Nothing more is begun then.
    pub(in crate::engine) failure: Option<Failure>,
}

/// Who wants a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Why {
    /// A request that changes a part of a region waits for it.
    Demand,
    /// A read hydrates what it reads, or what will be read next.
    Read,
    /// A user asked for the range to be copied next, and may be waiting for it.
    Wanted(Option<RequestId>),
    /// Hydration has come to it.
    Background,
}

impl Why {
    /// With which priority such a copy begins.
    pub(in crate::engine) fn priority(self) -> Priority {
        match self {
            Self::Demand => Priority::Demand,
            Self::Read | Self::Wanted(Some(_)) => Priority::User,
            Self::Wanted(None) | Self::Background => Priority::Background,
        }
    }

    /// Whether it takes the line to the source for data that nobody reads: as much of that is
    /// under way at a time as the line needs.
    pub(in crate::engine) fn is_bulk(self) -> bool {
        matches!(self, Self::Wanted(_) | Self::Background)
    }

    /// Whether the limit of what is copied counts it.
    pub(in crate::engine) fn has_limit(self) -> bool {
        matches!(self, Self::Background | Self::Wanted(None))
    }
}

/// Who waits for a copy, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Priority {
    /// A request that changes something waits for the end of the claim. Such copies have their own
    /// share of memory.
    Demand,
    /// A user waits for the data, or for the region to be hydrated.
    User,
    /// Nobody waits: such copies keep to the rate and make way for users.
    Background,
}

/// A part of a copy that is in one buffer.
#[derive(Debug)]
pub(in crate::engine) struct Chunk {
    pub(in crate::engine) copy: CopyId,
    /// What is under way for it: reading the source, then writing.
    pub(in crate::engine) op: OpId,
    /// When it was begun, and what the source had delivered by then.
    pub(in crate::engine) sample: Sample,
    /// Whose share of memory its buffer is of.
    pub(in crate::engine) share: Priority,
    /// Whether it counts as under way for nobody.
    pub(in crate::engine) is_background: bool,
    /// Whether it was paid for by the rate.
    pub(in crate::engine) is_paid: bool,
    /// What is written for it: no overlay is taken there once it is being stored.
    pub(in crate::engine) range: ByteRange,
    /// The bytes in its buffer.
    pub(in crate::engine) room: u64,
    pub(in crate::engine) state: ChunkState,
}

/// How far a chunk is.
#[derive(Debug)]
pub(in crate::engine) enum ChunkState {
    /// Being read from the source; these reads wait for it.
    Fetching(Vec<Part>),
    /// Being written to the destination: what it is made of cannot change any more.
    Storing,
    /// Done, or failed.
    Ended,
}

/// A part of a request that is written together with the region around it.
#[derive(Clone, Debug)]
pub(in crate::engine) struct LaidOver {
    pub(in crate::engine) part: Part,
    pub(in crate::engine) bytes: OverlayBytes,
}

impl Copy {
    /// Of the bytes `range`; nothing of it is begun.
    pub(in crate::engine) fn new(
        why: Why,
        since: Duration,
        nr_begun: u64,
        range: ByteRange,
    ) -> Self {
        let begun = range.start;
        Self {
            why,
            priority: why.priority(),
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

    /// Whether no more of it will be begun.
    pub(in crate::engine) fn is_begun(&self) -> bool {
        self.begun == self.range.end || self.failure.is_some() || self.is_cancelled
    }

    /// Whether bytes in `range` can still be laid over it: none of them is being written.
    pub(in crate::engine) fn takes_overlay(&self, range: &ByteRange) -> bool {
        let is_free = |chunk: &Chunk| {
            matches!(chunk.state, ChunkState::Fetching(_)) || !overlap(&chunk.range, range)
        };
        self.failure.is_none() && !self.is_cancelled && self.chunks.iter().all(is_free)
    }

    /// The chunk that is still being fetched and holds the byte at `offset`.
    pub(in crate::engine) fn fetching(&mut self, offset: u64) -> Option<(&mut Chunk, u64)> {
        self.chunks.iter_mut().find_map(|chunk| {
            let is_it =
                matches!(chunk.state, ChunkState::Fetching(_)) && chunk.range.contains(&offset);
            let end = chunk.range.end;
            is_it.then_some((chunk, end))
        })
    }

    /// The chunk in the buffer `copy`.
    pub(in crate::engine) fn chunk(&mut self, copy: CopyId) -> &mut Chunk {
        let found = self.chunks.iter_mut().find(|chunk| chunk.copy == copy);
        found.expect("a chunk stays until its claim ends")
    }

    /// Whether nothing of it is under way.
    pub(in crate::engine) fn is_idle(&self) -> bool {
        self.chunks.iter().all(|chunk| matches!(chunk.state, ChunkState::Ended))
    }
}

/// Whether two ranges have a byte in common.
pub(in crate::engine) fn overlap(a: &ByteRange, b: &ByteRange) -> bool {
    a.start < b.end && b.start < a.end
}

/// All claims.
#[derive(Debug, Default)]
pub(in crate::engine) struct Claims {
    by_id: HashMap<ClaimId, Claim>,
    by_start: BTreeMap<u64, ClaimId>,
    /// Regions of all of them.
    nr_regions: u64,
    next: u64,
}

impl Claims {
    /// Claims regions of which none is claimed.
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

    /// Adds the regions up to `end`, of which none is claimed.
    pub(in crate::engine) fn extend(&mut self, id: ClaimId, end: u64) {
        let regions = self.get(id).regions.clone();
        assert!(regions.end <= end && self.next_from(regions.end) >= end, "claims overlap");
        self.nr_regions += end - regions.end;
        self.get(id).regions.end = end;
    }

    /// Ends a claim.
    pub(in crate::engine) fn remove(&mut self, id: ClaimId) -> Claim {
        let claim = self.by_id.remove(&id).expect("a claim ends once");
        self.by_start.remove(&claim.regions.start);
        self.nr_regions -= claim.regions.end - claim.regions.start;
        claim
    }

    /// A claim that has not ended.
    pub(in crate::engine) fn get(&mut self, id: ClaimId) -> &mut Claim {
        self.by_id.get_mut(&id).expect("a claim stays while its operations are under way")
    }

    /// What is being copied for a claim that copies.
    pub(in crate::engine) fn copy(&mut self, id: ClaimId) -> &mut Copy {
        match &mut self.get(id).work {
            Work::Copy(copy) => copy,
            Work::Overwrite => unreachable!("an overwrite has no chunks"),
        }
    }

    /// The claim that holds `region`, and where it ends.
    pub(in crate::engine) fn at(&self, region: u64) -> Option<(ClaimId, u64)> {
        let (_, id) = self.by_start.range(..=region).next_back()?;
        let end = self.by_id[id].regions.end;
        (region < end).then_some((*id, end))
    }

    /// Where the first claim begins that begins at `region` or after it; `u64::MAX` if none does.
    pub(in crate::engine) fn next_from(&self, region: u64) -> u64 {
        self.by_start.range(region..).next().map_or(u64::MAX, |(&start, _)| start)
    }

    /// How many regions are claimed.
    pub(in crate::engine) fn nr_regions(&self) -> u64 {
        self.nr_regions
    }

    /// Whether nothing is claimed.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All copies, lowest region first.
    pub(in crate::engine) fn copies(&self) -> impl Iterator<Item = (ClaimId, &Copy)> {
        self.by_start.values().filter_map(|id| match &self.by_id[id].work {
            Work::Copy(copy) => Some((*id, copy)),
            Work::Overwrite => None,
        })
    }
}
