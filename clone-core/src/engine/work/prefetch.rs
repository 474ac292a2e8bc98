//! Prefetch: ranges that users want copied next, whether hydration is on or off.
//!
//! There are hydrate requests, ranges that no request waits for (also from hydration on read), and
//! readahead. The engine begins their copies before those of hydration.

use std::collections::VecDeque;
use std::mem;

use crate::engine::api::request::{ByteRange, RequestError, RequestId};
use crate::engine::regions::claim::{CopyReason, Priority};
use crate::engine::work::plan::State;
use crate::engine::{Engine, Mode};
use crate::geometry::RegionRange;

/// Maximum number of queued ranges; later ones are left to hydration.
const RANGES_MAX: usize = 1 << 20;
/// Number of queued ranges above which reads add no more.
const HINTS_MAX: usize = 64;
/// Number of hydrate requests that are served at a time; later ones wait for these.
const REQUESTS_AT_ONCE: usize = 64;

/// The queues of prefetches.
#[derive(Debug, Default)]
pub(in crate::engine) struct Prefetch {
    /// Hydrate requests, in order of arrival.
    requests: VecDeque<HydrateRequest>,
    /// Regions that no request waits for.
    ranges: VecDeque<RegionRange>,
}

/// A hydrate request.
#[derive(Debug)]
struct HydrateRequest {
    request: RequestId,
    /// The remaining regions: all before them are hydrated.
    regions: RegionRange,
    /// Copies of all remaining regions before this one have begun. It moves back only when a copy
    /// was cancelled or failed, so that an event does not look at all regions again.
    cursor: u64,
}

impl Engine {
    /// Begins a hydrate request: copies `range` and answers when it is hydrated.
    pub(in crate::engine) fn hydrate_for(&mut self, range: &ByteRange, request: RequestId) {
        if range.start == range.end || self.is_hydrated(range) {
            self.end_part(request, Ok(()));
        } else if self.mode == Mode::ReadWrite {
            let regions = self.sizes.touched(range);
            let cursor = regions.start;
            self.prefetch.requests.push_back(HydrateRequest { request, regions, cursor });
        } else {
            let error = self.mode_error();
            self.end_part(request, Err(error));
        }
    }

    /// Queues a range to be copied after the ranges queued before. Ignores the part past the end of
    /// the clone.
    pub(in crate::engine) fn prefetch(&mut self, range: &ByteRange) {
        let range = range.start..range.end.min(self.sizes.size_bytes);
        let is_of_use = self.map.is_some() && self.mode == Mode::ReadWrite;
        if range.start < range.end && is_of_use && self.prefetch.ranges.len() < RANGES_MAX {
            self.prefetch.ranges.push_back(self.sizes.touched(&range));
        }
    }

    /// Queues regions to be copied before all other queued ranges.
    pub(in crate::engine) fn prefetch_first(&mut self, regions: RegionRange) {
        self.prefetch.ranges.push_front(regions);
    }

    /// Queues a range around a read, unless there are enough queued ranges.
    pub(in crate::engine) fn prefetch_hint(&mut self, range: &ByteRange) {
        if self.prefetch.ranges.len() < HINTS_MAX {
            self.prefetch(range);
        }
    }

    /// Begins copies for hydrate requests, as many as there is room for.
    pub(in crate::engine) fn copy_for_requests(&mut self) {
        let mut index = 0;
        while index < self.prefetch.requests.len().min(REQUESTS_AT_ONCE) {
            let HydrateRequest { request, ref regions, cursor } = self.prefetch.requests[index];
            let regions = self.hydrated_until(regions)..regions.end;
            if regions.start == regions.end {
                self.prefetch.requests.remove(index);
                self.end_part(request, Ok(()));
                continue;
            }
            let (_, first) = self.look(regions.start..regions.start + 1);
            // A copy of the region that another request began may have failed or been cancelled.
            let cursor = match first {
                State::Free => regions.start,
                State::Hydrated | State::Claimed(_) => cursor.max(regions.start),
            };
            let cursor = self.copy_from(request, cursor..regions.end);
            // If there is no room for this request, later ones may still find their regions
            // claimed.
            self.prefetch.requests[index] = HydrateRequest { request, regions, cursor };
            index += 1;
        }
    }

    /// Begins copies of the free regions in `regions`, and raises the priority of copies in flight.
    /// Returns the region at which it ran out of room, or the end.
    fn copy_from(&mut self, request: RequestId, mut regions: RegionRange) -> u64 {
        while regions.start < regions.end {
            let hydrated = self.hydrated_until(&regions);
            if hydrated > regions.start {
                regions.start = hydrated;
                continue;
            }
            let (end, state) = self.look(self.some(&regions));
            regions.start = match state {
                State::Hydrated => end,
                State::Claimed(id) => {
                    self.promote(id, Priority::User);
                    end
                }
                State::Free => {
                    let Some(most) = self.most_regions() else { return regions.start };
                    let end = end.min(regions.start + most);
                    let reason = CopyReason::Prefetch(Some(request));
                    self.begin_copy(regions.start..end, reason, None);
                    end
                }
            };
        }
        regions.end
    }

    /// Returns the end of the run of hydrated regions from `regions.start`.
    fn hydrated_until(&self, regions: &RegionRange) -> u64 {
        let Some(map) = &self.map else { return regions.end };
        let is_empty = regions.start == regions.end;
        if is_empty || !map.all(regions.start..regions.start + 1) {
            return regions.start;
        }
        map.run(regions.clone()).0
    }

    /// Begins copies of queued ranges that no request waits for.
    pub(in crate::engine) fn copy_prefetched(&mut self) {
        while let Some(regions) = self.prefetch.ranges.front().cloned() {
            if regions.start == regions.end {
                self.prefetch.ranges.pop_front();
                continue;
            }
            let (mut end, state) = self.look(self.some(&regions));
            if state == State::Free {
                if !self.has_patience() {
                    return;
                }
                let Some(most) = self.most_regions_for_nobody() else { return };
                end = end.min(regions.start + most);
                self.spend(&(regions.start..end));
                self.begin_copy(regions.start..end, CopyReason::Prefetch(None), None);
            }
            self.prefetch.ranges[0].start = end;
        }
    }

    /// Returns the first of `regions`, as many as can matter for one copy.
    fn some(&self, regions: &RegionRange) -> RegionRange {
        let most = (self.chunk_bytes >> self.sizes.region_shift).max(64);
        regions.start..regions.end.min(regions.start + most)
    }

    /// Reads ahead of sequential reads.
    pub(in crate::engine) fn read_ahead(&mut self, read: &ByteRange) {
        let most = self.chunk_bytes.min(self.window.bytes());
        let Some(ahead) = self.streams.read(read, most) else { return };
        let mut at = read.end;
        let end = (read.end.saturating_add(ahead)).min(self.sizes.size_bytes);
        while at < end {
            let regions = self.sizes.touched(&(at..end));
            let (end, state) = self.look(regions.clone());
            if state == State::Free {
                let Some(regions) = self.room_for_copy(regions.start..end) else { return };
                at = self.sizes.bytes_of(&regions).end;
                self.begin_copy(regions, CopyReason::Read, None);
            } else {
                at = end << self.sizes.region_shift;
            }
        }
    }

    /// Fails a hydrate request after the first failed copy.
    pub(in crate::engine) fn fail_request(&mut self, request: RequestId) {
        let asked = &mut self.prefetch.requests;
        if let Some(index) = asked.iter().position(|asked| asked.request == request) {
            asked.remove(index);
            self.end_part(request, Err(RequestError::NotCopied));
        }
    }

    /// Answers all hydrate requests when nothing can or need be copied any more.
    pub(in crate::engine) fn end_requests(&mut self) {
        for HydrateRequest { request, regions, .. } in mem::take(&mut self.prefetch.requests) {
            let is_done = self.map.as_ref().is_none_or(|map| map.all(regions));
            self.end_part(request, if is_done { Ok(()) } else { Err(self.mode_error()) });
        }
    }

    /// Drops the ranges that no request waits for.
    pub(in crate::engine) fn drop_prefetch(&mut self) {
        self.prefetch.ranges.clear();
    }

    /// Returns true if there are ranges that no request waits for.
    pub(in crate::engine) fn has_prefetch(&self) -> bool {
        !self.prefetch.ranges.is_empty()
    }

    /// Returns the number of hydrate requests; they do not end while nothing is copied.
    pub(in crate::engine) fn nr_hydrate_requests(&self) -> usize {
        self.prefetch.requests.len()
    }
}
