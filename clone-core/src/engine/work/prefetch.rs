//! What users want copied next, whether hydration is switched on or not: ranges that somebody
//! waits for, ranges that nobody does, and what reads will probably come to.

use std::collections::VecDeque;
use std::mem;

use crate::engine::api::request::{ByteRange, RequestError, RequestId};
use crate::engine::regions::claim::{Priority, Why};
use crate::engine::work::plan::State;
use crate::engine::{Engine, Mode};
use crate::geometry::RegionRange;

/// The most ranges that wait to be copied next; what is beyond is left to hydration.
const WANTS_MAX: usize = 1 << 20;
/// The most of them up to which reads add to them.
const HINTS_MAX: usize = 64;
/// How many requests are worked for at a time; those behind have to wait for these.
const ASKED_AT_ONCE: usize = 64;

/// What users want copied.
#[derive(Debug, Default)]
pub(in crate::engine) struct Wanted {
    /// Requests that wait for regions, in the order in which they came.
    asked: VecDeque<Asked>,
    /// Regions that nobody waits for.
    wants: VecDeque<RegionRange>,
}

/// A request that waits until regions are hydrated.
#[derive(Debug)]
struct Asked {
    request: RequestId,
    /// The regions that are left: those before are hydrated.
    regions: RegionRange,
    /// Copies of those before this one have been begun. It only goes back where one was given up,
    /// so that no region is looked at again at each event.
    cursor: u64,
}

impl Engine {
    /// A user wants a range copied now, and waits for it.
    pub(in crate::engine) fn ask(&mut self, range: &ByteRange, request: RequestId) {
        if range.start == range.end || self.is_hydrated(range) {
            self.end_part(request, Ok(()));
        } else if self.mode == Mode::ReadWrite {
            let regions = self.sizes.touched(range);
            let cursor = regions.start;
            self.wanted.asked.push_back(Asked { request, regions, cursor });
        } else {
            let error = self.mode_error();
            self.end_part(request, Err(error));
        }
    }

    /// A range is to be copied next, after those that were wanted before. What lies past the end
    /// of the clone is left out.
    pub(in crate::engine) fn want(&mut self, range: &ByteRange) {
        let range = range.start..range.end.min(self.sizes.size_bytes);
        let is_of_use = self.map.is_some() && self.mode == Mode::ReadWrite;
        if range.start < range.end && is_of_use && self.wanted.wants.len() < WANTS_MAX {
            self.wanted.wants.push_back(self.sizes.touched(&range));
        }
    }

    /// A range is to be copied before the others that are wanted.
    pub(in crate::engine) fn want_first(&mut self, regions: RegionRange) {
        self.wanted.wants.push_front(regions);
    }

    /// Users read here: a range to be copied next, unless there are enough of them.
    pub(in crate::engine) fn want_soon(&mut self, range: &ByteRange) {
        if self.wanted.wants.len() < HINTS_MAX {
            self.want(range);
        }
    }

    /// Begins copies for those who wait, as many as there is room for.
    pub(in crate::engine) fn copy_asked(&mut self) {
        let mut index = 0;
        while index < self.wanted.asked.len().min(ASKED_AT_ONCE) {
            let Asked { request, ref regions, cursor } = self.wanted.asked[index];
            let regions = self.hydrated_until(regions)..regions.end;
            if regions.start == regions.end {
                self.wanted.asked.remove(index);
                self.end_part(request, Ok(()));
                continue;
            }
            let (_, first) = self.look(regions.start..regions.start + 1);
            // A copy of it that somebody began may have failed, or been given up.
            let cursor = match first {
                State::Free => regions.start,
                State::Hydrated | State::Claimed(_) => cursor.max(regions.start),
            };
            let cursor = self.copy_from(request, cursor..regions.end);
            // Where there is no room, those behind may wait for something else.
            self.wanted.asked[index] = Asked { request, regions, cursor };
            index += 1;
        }
    }

    /// Begins copies of those of `regions` that are free, and has users wait for those that are
    /// being copied. Returns where it had to stop, for want of room.
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
                    let why = Why::Wanted(Some(request));
                    self.begin_copy(regions.start..end, why, None);
                    end
                }
            };
        }
        regions.end
    }

    /// Where those of `regions` end that are hydrated from its start on.
    fn hydrated_until(&self, regions: &RegionRange) -> u64 {
        let Some(map) = &self.map else { return regions.end };
        let is_empty = regions.start == regions.end;
        if is_empty || !map.all(regions.start..regions.start + 1) {
            return regions.start;
        }
        map.run(regions.clone()).0
    }

    /// Begins copies of what is wanted and nobody waits for.
    pub(in crate::engine) fn copy_wanted(&mut self) {
        while let Some(regions) = self.wanted.wants.front().cloned() {
            if regions.start == regions.end {
                self.wanted.wants.pop_front();
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
                self.begin_copy(regions.start..end, Why::Wanted(None), None);
            }
            self.wanted.wants[0].start = end;
        }
    }

    /// As many of `regions` as are worth looking at for one copy.
    fn some(&self, regions: &RegionRange) -> RegionRange {
        let most = (self.chunk_bytes >> self.sizes.region_shift).max(64);
        regions.start..regions.end.min(regions.start + most)
    }

    /// Looks ahead of reads that go on where the last one ended.
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
                self.begin_copy(regions, Why::Read, None);
            } else {
                at = end << self.sizes.region_shift;
            }
        }
    }

    /// A copy has failed that somebody waits for. One answer is enough.
    pub(in crate::engine) fn refuse_asked(&mut self, request: RequestId) {
        let asked = &mut self.wanted.asked;
        if let Some(index) = asked.iter().position(|asked| asked.request == request) {
            asked.remove(index);
            self.end_part(request, Err(RequestError::NotCopied));
        }
    }

    /// Answers those who wait: nothing can be copied any more, or need be.
    pub(in crate::engine) fn end_asked(&mut self) {
        for Asked { request, regions, .. } in mem::take(&mut self.wanted.asked) {
            let is_done = self.map.as_ref().is_none_or(|map| map.all(regions));
            self.end_part(request, if is_done { Ok(()) } else { Err(self.mode_error()) });
        }
    }

    /// Forgets the ranges for which nobody waits.
    pub(in crate::engine) fn drop_wants(&mut self) {
        self.wanted.wants.clear();
    }

    /// Whether there are ranges for which nobody waits.
    pub(in crate::engine) fn has_wants(&self) -> bool {
        !self.wanted.wants.is_empty()
    }

    /// Requests that wait for ranges to be copied, and so do not end while nothing is.
    pub(in crate::engine) fn nr_asked(&self) -> usize {
        self.wanted.asked.len()
    }
}
